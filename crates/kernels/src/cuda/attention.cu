// Attention over keys and values where they lie, a warp a query and head: decoding over ragged slots, and any rows in
// any format. Bound by the bytes of keys and values, which are read once each, 16 bytes a lane.
#include "common.cuh"

constexpr int QUERY_WARPS = 4; // warps of a block, a head each
constexpr int AHEAD = 4;       // columns that a lane loads before it uses the first

// Rows of queries that see the same keys and values. Query i sees first_visible + i · step columns.
struct Tile {
    unsigned query, rows, context, first_visible, step, out;
};

// Where keys and values lie, in values: one context, one head, one column behind the other.
struct Strides {
    unsigned long long context, head;
    unsigned column;
};

// A softmax-weighted sum under way, for one lane's part of a column and the columns of its group of lanes.
template <int LENGTH> struct Mix {
    float most = -INFINITY, sum = 0.0f, values[LENGTH] = {};
};

template <class T, int D> struct Lanes {
    static constexpr int LENGTH = Pack<T>::LENGTH;
    static constexpr int PER_COLUMN = D / LENGTH;
    static constexpr int COLUMNS = WARP / PER_COLUMN; // columns that a warp takes at a time
};

// The product of a query with the lane's part of a key, summed over the lanes of the column.
template <class T, int D>
__device__ inline float score(const float (&query)[Pack<T>::LENGTH], const Pack<T> &key) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < Pack<T>::LENGTH; i++) sum += query[i] * widen(key.at[i]);
#pragma unroll
    for (int offset = Lanes<T, D>::PER_COLUMN / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    return sum;
}

// Columns first..end into the mix. Keys and values begin at the lane's part of column 0.
template <class T, int D>
__device__ inline void mix_columns(Mix<Pack<T>::LENGTH> &mix, const float (&query)[Pack<T>::LENGTH], const T *keys,
                                   const T *values, size_t stride, int first, int end) {
    constexpr int COLUMNS = Lanes<T, D>::COLUMNS, LENGTH = Pack<T>::LENGTH;
    int group = threadIdx.x % WARP / Lanes<T, D>::PER_COLUMN;
    for (int start = first; start < end; start += COLUMNS * AHEAD) {
        Pack<T> key[AHEAD] = {}, value[AHEAD] = {};
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int column = start + a * COLUMNS + group;
            if (column < end) {
                key[a] = load_pack(keys + column * stride);
                value[a] = load_pack(values + column * stride);
            }
        }
        float scores[AHEAD], most = mix.most;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float s = score<T, D>(query, key[a]);
            scores[a] = start + a * COLUMNS + group < end ? s : -INFINITY;
            most = fmaxf(most, scores[a]);
        }
        // A group that has seen no column yet must not take -inf from -inf.
        float base = most == -INFINITY ? 0.0f : most;
        float kept = exp2f(mix.most - base);
        mix.sum *= kept;
#pragma unroll
        for (int i = 0; i < LENGTH; i++) mix.values[i] *= kept;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float weight = exp2f(scores[a] - base);
            mix.sum += weight;
#pragma unroll
            for (int i = 0; i < LENGTH; i++) mix.values[i] += weight * widen(value[a].at[i]);
        }
        mix.most = most;
    }
}

// One column, of which every lane has the score and its part of the value, into the first group's mix.
template <class T> __device__ inline void mix_one(Mix<Pack<T>::LENGTH> &mix, float s, const Pack<T> &value) {
    float most = fmaxf(mix.most, s), kept = exp2f(mix.most - most), weight = exp2f(s - most);
    mix.sum = mix.sum * kept + weight;
#pragma unroll
    for (int i = 0; i < Pack<T>::LENGTH; i++) mix.values[i] = mix.values[i] * kept + weight * widen(value.at[i]);
    mix.most = most;
}

// The groups' mixes into one, in every lane.
template <class T, int D> __device__ inline void join_groups(Mix<Pack<T>::LENGTH> &mix) {
#pragma unroll
    for (int offset = Lanes<T, D>::PER_COLUMN; offset < WARP; offset *= 2) {
        float other = __shfl_xor_sync(ALL_LANES, mix.most, offset), sum = __shfl_xor_sync(ALL_LANES, mix.sum, offset);
        float most = fmaxf(mix.most, other), base = most == -INFINITY ? 0.0f : most;
        float own = exp2f(mix.most - base), others = exp2f(other - base);
        mix.sum = mix.sum * own + sum * others;
#pragma unroll
        for (int i = 0; i < Pack<T>::LENGTH; i++) {
            float value = __shfl_xor_sync(ALL_LANES, mix.values[i], offset);
            mix.values[i] = mix.values[i] * own + value * others;
        }
        mix.most = most;
    }
}

template <class T> __device__ inline void add(Pack<T> &pack, const float *bias) {
#pragma unroll
    for (int i = 0; i < Pack<T>::LENGTH; i++) pack.at[i] = narrow<T>(widen(pack.at[i]) + bias[i]);
}

// One new token a row against its slot's keys and values: grid [heads / QUERY_WARPS, rows, splits of the context].
//
// `rows` holds token, position, slot and the column of the row's own key, so the number of those before it. With
// `append` the row's own key and value are taken from `qkv` and written to the cache here; else they are there already.
// Each split leaves its weighted sum in `mixed` [rows, heads, splits, D] and its greatest score and sum of weights in
// `weights` [rows, heads, splits, 2], for merge_norm to join.
template <class T, int D>
__device__ void attend_newest(const uint4 *rows, const T *qkv, const float *bias, T *keys, T *values, float *mixed,
                              float *weights, int heads, int length, int append, float scale) {
    constexpr int LENGTH = Pack<T>::LENGTH, COLUMNS = Lanes<T, D>::COLUMNS;
    int head = blockIdx.x * QUERY_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (head >= heads) return;
    int place = lane % Lanes<T, D>::PER_COLUMN * LENGTH, width = heads * D, own = head * D + place;
    uint4 row = rows[blockIdx.y];
    int column = row.w, total = column + 1, splits = gridDim.z;
    const T *from = qkv + (size_t)blockIdx.y * 3 * width + own;
    float query[LENGTH];
    Pack<T> packed = load_pack(from);
    add(packed, bias + own);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] = widen(packed.at[i]) * scale;

    size_t origin = ((size_t)row.z * heads + head) * length * D + place;
    int share = (total + splits - 1) / splits;
    share = (share + COLUMNS - 1) / COLUMNS * COLUMNS;
    int first = blockIdx.z * share, end = min(first + share, total);
    bool takes_own = append && first < end && end == total;
    Mix<LENGTH> mix;
    mix_columns<T, D>(mix, query, keys + origin, values + origin, D, first, takes_own ? column : end);
    if (takes_own) {
        Pack<T> key = load_pack(from + width), value = load_pack(from + 2 * width);
        add(key, bias + width + own);
        add(value, bias + 2 * width + own);
        float s = score<T, D>(query, key);
        if (lane < Lanes<T, D>::PER_COLUMN) {
            store_pack(keys + origin + (size_t)column * D, key);
            store_pack(values + origin + (size_t)column * D, value);
            mix_one<T>(mix, s, value);
        }
    }
    join_groups<T, D>(mix);
    size_t part = ((size_t)blockIdx.y * heads + head) * splits + blockIdx.z;
    if (lane < Lanes<T, D>::PER_COLUMN) {
#pragma unroll
        for (int i = 0; i < LENGTH; i++) mixed[part * D + place + i] = mix.values[i];
    }
    if (lane == 0) {
        weights[2 * part] = mix.most;
        weights[2 * part + 1] = mix.sum;
    }
}

// Joins the splits of attend_newest and takes Magneto's layer norm of the joined heads: a block a row.
template <class T>
__device__ void merge_norm(const float *mixed, const float *weights, const float *weight, const float *bias, T *out,
                           int heads, int head_dim, int splits, float eps) {
    int first = threadIdx.x * OWN, width = heads * head_dim;
    bool owns = first < width;
    float own[OWN] = {};
    if (owns) {
        size_t part = ((size_t)blockIdx.x * heads + first / head_dim) * splits;
        float most = -INFINITY, sum = 0.0f;
        for (int s = 0; s < splits; s++) most = fmaxf(most, weights[2 * (part + s)]);
        for (int s = 0; s < splits; s++) {
            // A split of no columns has weight 0: exp2(-inf).
            float share = exp2f(weights[2 * (part + s)] - most), values[OWN];
            sum += share * weights[2 * (part + s) + 1];
            load_own(mixed + (part + s) * head_dim + first % head_dim, values);
#pragma unroll
            for (int i = 0; i < OWN; i++) own[i] += share * values[i];
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) own[i] /= sum;
    }
    normalize(own, owns, width, eps, weight, bias);
    if (owns) store_own(out + (size_t)blockIdx.x * width + first, own);
}

// Any rows: grid [heads / QUERY_WARPS, tiles, rows of a tile]. The biases of queries and values may be absent. A bias of
// keys adds the same to all of a query's scores, so the softmax does not see it.
template <class T, int D>
__device__ void attend_rows(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, const T *keys,
                            const T *values, Strides strides, const float *value_bias, T *out, int heads, float scale) {
    constexpr int LENGTH = Pack<T>::LENGTH;
    Tile tile = tiles[blockIdx.y];
    int head = blockIdx.x * QUERY_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.z;
    if (head >= heads || row >= (int)tile.rows) return;
    int place = lane % Lanes<T, D>::PER_COLUMN * LENGTH, own = head * D + place;
    Pack<T> packed = load_pack(queries + (size_t)(tile.query + row) * query_stride + own);
    if (query_bias) add(packed, query_bias + own);
    float query[LENGTH];
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] = widen(packed.at[i]) * scale;
    size_t origin = tile.context * strides.context + head * strides.head + place;
    Mix<LENGTH> mix;
    mix_columns<T, D>(mix, query, keys + origin, values + origin, strides.column, 0, tile.first_visible + row * tile.step);
    join_groups<T, D>(mix);
    if (lane >= Lanes<T, D>::PER_COLUMN) return;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        packed.at[i] = narrow<T>(mix.values[i] / mix.sum + (value_bias ? value_bias[own + i] : 0.0f));
    }
    store_pack(out + ((size_t)tile.out + row) * heads * D + own, packed);
}

// Keys and values of new rows, with their biases, into the cache [slots, heads, length, D]: a block a row.
template <class T, int D>
__device__ void append(const uint4 *rows, const T *qkv, const float *bias, T *keys, T *values, int heads, int length) {
    int width = heads * D;
    uint4 row = rows[blockIdx.x];
    for (int at = threadIdx.x * OWN; at < 2 * width; at += blockDim.x * OWN) {
        float own[OWN], b[OWN];
        load_own(qkv + (size_t)blockIdx.x * 3 * width + width + at, own);
        load_own(bias + width + at, b);
#pragma unroll
        for (int i = 0; i < OWN; i++) own[i] += b[i];
        int within = at % width;
        size_t to = (((size_t)row.z * heads + within / D) * length + row.w) * D + within % D;
        store_own((at < width ? keys : values) + to, own);
    }
}

// Columns of one slot to the same places of another: grid [copies, heads]. A copy is source, target, first column, count.
template <class T, int D> __device__ void copy_columns(const uint4 *copies, T *keys, T *values, int heads, int length) {
    constexpr int LENGTH = Pack<T>::LENGTH;
    uint4 copy = copies[blockIdx.x];
    size_t from = (((size_t)copy.x * heads + blockIdx.y) * length + copy.z) * D;
    size_t to = (((size_t)copy.y * heads + blockIdx.y) * length + copy.z) * D;
    for (size_t at = threadIdx.x * LENGTH; at < (size_t)copy.w * D; at += blockDim.x * LENGTH) {
        store_pack(keys + to + at, load_pack(keys + from + at));
        store_pack(values + to + at, load_pack(values + from + at));
    }
}
