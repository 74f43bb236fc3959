// Attention over keys and values where they lie, a warp a query and head: decoding over ragged slots, and any rows in
// any format. Bound by the bytes of keys and values, which are read once each, 16 or 8 bytes a lane.
//
// T is the format that is computed in, S the one that keys and values are kept in: the same, or int8 with a scale for the
// key and one for the value of each token and head, a pair of f32. A kept value errs by 1/254 of the greatest of its D at
// most.
#include "common.cuh"

constexpr int QUERY_WARPS = 4; // warps of a block, a head each

template <class S> constexpr bool SCALED = sizeof(S) == 1;

// Values of a column that one lane takes. Not more than 8: sums and queries would fill the registers, and then too few
// loads are under way to keep the memory busy.
template <class S> constexpr int PART = sizeof(S) == 4 ? 4 : 8;

// Columns that a lane loads before it uses the first.
template <class S> constexpr int AHEAD = SCALED<S> ? 8 : 4;

template <class S> struct alignas(PART<S> * sizeof(S)) Part {
    S at[PART<S>];
};

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

template <class S, int D> struct Lanes {
    static constexpr int LENGTH = PART<S>;
    static constexpr int PER_COLUMN = D / LENGTH;
    static constexpr int COLUMNS = WARP / PER_COLUMN; // columns that a warp takes at a time
};

template <class S> __device__ inline void widen_part(const Part<S> &part, float (&values)[PART<S>]) {
#pragma unroll
    for (int i = 0; i < PART<S>; i++) values[i] = widen(part.at[i]);
}

// The product of a query with the lane's part of a key, summed over the lanes of the column.
template <class S, int D>
__device__ inline float score(const float (&query)[PART<S>], const float (&key)[PART<S>]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < PART<S>; i++) sum += query[i] * key[i];
#pragma unroll
    for (int offset = Lanes<S, D>::PER_COLUMN / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    return sum;
}

// Columns first..end into the mix. Keys and values begin at the lane's part of column 0, scales at column 0.
template <class S, int D>
__device__ inline void mix_columns(Mix<PART<S>> &mix, const float (&query)[PART<S>], const S *keys,
                                   const S *values, const float2 *scales, size_t stride, int first, int end) {
    constexpr int COLUMNS = Lanes<S, D>::COLUMNS, LENGTH = PART<S>;
    int group = threadIdx.x % WARP / Lanes<S, D>::PER_COLUMN;
    for (int start = first; start < end; start += COLUMNS * AHEAD<S>) {
        Part<S> key[AHEAD<S>] = {}, value[AHEAD<S>] = {};
        float2 scale[AHEAD<S>] = {};
#pragma unroll
        for (int a = 0; a < AHEAD<S>; a++) {
            int column = start + a * COLUMNS + group;
            if (column < end) {
                key[a] = *reinterpret_cast<const Part<S> *>(keys + column * stride);
                value[a] = *reinterpret_cast<const Part<S> *>(values + column * stride);
                if (SCALED<S>) scale[a] = scales[column];
            }
        }
        float scores[AHEAD<S>], most = mix.most;
#pragma unroll
        for (int a = 0; a < AHEAD<S>; a++) {
            float wide[LENGTH];
            widen_part(key[a], wide);
            float s = score<S, D>(query, wide);
            if (SCALED<S>) s *= scale[a].x;
            scores[a] = start + a * COLUMNS + group < end ? s : -INFINITY;
            most = fmaxf(most, scores[a]);
        }
        // A group that has seen no column yet must not take -inf from -inf.
        float base = most == -INFINITY ? 0.0f : most;
        float kept = power_of_two(mix.most - base);
        mix.sum *= kept;
#pragma unroll
        for (int i = 0; i < LENGTH; i++) mix.values[i] *= kept;
#pragma unroll
        for (int a = 0; a < AHEAD<S>; a++) {
            float weight = power_of_two(scores[a] - base);
            mix.sum += weight;
            if (SCALED<S>) weight *= scale[a].y;
#pragma unroll
            for (int i = 0; i < LENGTH; i++) mix.values[i] += weight * widen(value[a].at[i]);
        }
        mix.most = most;
    }
}

// One column, of which every lane has the score and its part of the value, into the first group's mix.
template <int LENGTH> __device__ inline void mix_one(Mix<LENGTH> &mix, float s, const float (&value)[LENGTH]) {
    float most = fmaxf(mix.most, s), kept = power_of_two(mix.most - most), weight = power_of_two(s - most);
    mix.sum = mix.sum * kept + weight;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) mix.values[i] = mix.values[i] * kept + weight * value[i];
    mix.most = most;
}

// The groups' mixes into one, in every lane.
template <class S, int D> __device__ inline void join_groups(Mix<PART<S>> &mix) {
#pragma unroll
    for (int offset = Lanes<S, D>::PER_COLUMN; offset < WARP; offset *= 2) {
        float other = __shfl_xor_sync(ALL_LANES, mix.most, offset), sum = __shfl_xor_sync(ALL_LANES, mix.sum, offset);
        float most = fmaxf(mix.most, other), base = most == -INFINITY ? 0.0f : most;
        float own = power_of_two(mix.most - base), others = power_of_two(other - base);
        mix.sum = mix.sum * own + sum * others;
#pragma unroll
        for (int i = 0; i < PART<S>; i++) {
            float value = __shfl_xor_sync(ALL_LANES, mix.values[i], offset);
            mix.values[i] = mix.values[i] * own + value * others;
        }
        mix.most = most;
    }
}

// Values of a product with their bias, as the format has them.
template <class T, int LENGTH> __device__ inline void load_biased(const T *from, const float *bias, float (&values)[LENGTH]) {
#pragma unroll
    for (int first = 0; first < LENGTH; first += Pack<T>::LENGTH) {
        Pack<T> pack = load_pack(from + first);
#pragma unroll
        for (int i = 0; i < Pack<T>::LENGTH; i++) {
            values[first + i] = widen(narrow<T>(widen(pack.at[i]) + (bias ? bias[first + i] : 0.0f)));
        }
    }
}

// The scale of D values that neighbouring lanes hold between them, LENGTH each.
template <int D, int LENGTH> __device__ inline float column_scale(const float (&values)[LENGTH]) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) most = fmaxf(most, fabsf(values[i]));
#pragma unroll
    for (int offset = D / LENGTH / 2; offset > 0; offset /= 2) most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, offset));
    return most / 127.0f;
}

// A part of a column as it is kept; `values` become what it says. The scale is that of the whole column.
template <class S, int LENGTH> __device__ inline void keep(float (&values)[LENGTH], float scale, S *to, bool writes) {
    alignas(sizeof(S) * LENGTH) S kept[LENGTH];
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        if constexpr (SCALED<S>) {
            kept[i] = (int8)(scale > 0.0f ? rintf(values[i] / scale) : 0.0f);
            values[i] = widen(kept[i]) * scale;
        } else {
            kept[i] = narrow<S>(values[i]);
        }
    }
    if (!writes) return;
    struct alignas(sizeof(S) * LENGTH) Whole {
        S at[LENGTH];
    };
    *reinterpret_cast<Whole *>(to) = *reinterpret_cast<Whole *>(kept);
}

// One new token a row against its slot's keys and values: grid [heads / QUERY_WARPS, rows, splits of the context].
//
// `rows` holds token, position, slot and the column of the row's own key, so the number of those before it. With
// `append` the row's own key and value are taken from `qkv` and written to the cache here; else they are there already.
// Each split leaves its weighted sum in `mixed` [rows, heads, splits, D] and its greatest score and sum of weights in
// `weights` [rows, heads, splits, 2], for merge_norm to join.
template <class T, class S, int D>
__device__ void attend_newest(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values, float2 *scales,
                              float *mixed, float *weights, int heads, int length, int append, float scale) {
    constexpr int LENGTH = PART<S>, COLUMNS = Lanes<S, D>::COLUMNS;
    int head = blockIdx.x * QUERY_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (head >= heads) return;
    int place = lane % Lanes<S, D>::PER_COLUMN * LENGTH, width = heads * D, own = head * D + place;
    uint4 row = rows[blockIdx.y];
    int column = row.w, total = column + 1, splits = gridDim.z;
    const T *from = qkv + (size_t)blockIdx.y * 3 * width + own;
    float query[LENGTH];
    load_biased(from, bias + own, query);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] *= scale;

    size_t first_column = ((size_t)row.z * heads + head) * length, origin = first_column * D + place;
    if (SCALED<S>) scales += first_column;
    int share = (total + splits - 1) / splits;
    share = (share + COLUMNS - 1) / COLUMNS * COLUMNS;
    int first = blockIdx.z * share, end = min(first + share, total);
    bool takes_own = append && first < end && end == total;
    Mix<LENGTH> mix;
    mix_columns<S, D>(mix, query, keys + origin, values + origin, scales, D, first, takes_own ? column : end);
    if (takes_own) {
        float key[LENGTH], value[LENGTH];
        load_biased(from + width, bias + width + own, key);
        load_biased(from + 2 * width, bias + 2 * width + own, value);
        float key_scale = SCALED<S> ? column_scale<D>(key) : 1.0f, value_scale = SCALED<S> ? column_scale<D>(value) : 1.0f;
        bool writes = lane < Lanes<S, D>::PER_COLUMN;
        keep(key, key_scale, keys + origin + (size_t)column * D, writes);
        keep(value, value_scale, values + origin + (size_t)column * D, writes);
        if (SCALED<S> && lane == 0) scales[column] = make_float2(key_scale, value_scale);
        float s = score<S, D>(query, key);
        if (writes) mix_one(mix, s, value);
    }
    join_groups<S, D>(mix);
    size_t part = ((size_t)blockIdx.y * heads + head) * splits + blockIdx.z;
    if (lane < Lanes<S, D>::PER_COLUMN) {
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
            float share = power_of_two(weights[2 * (part + s)] - most), values[OWN];
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
    float query[LENGTH];
    load_biased(queries + (size_t)(tile.query + row) * query_stride + own, query_bias ? query_bias + own : nullptr, query);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] *= scale;
    size_t origin = tile.context * strides.context + head * strides.head + place;
    Mix<LENGTH> mix;
    mix_columns<T, D>(mix, query, keys + origin, values + origin, nullptr, strides.column, 0,
                      tile.first_visible + row * tile.step);
    join_groups<T, D>(mix);
    if (lane >= Lanes<T, D>::PER_COLUMN) return;
    Pack<T> packed;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        packed.at[i] = narrow<T>(mix.values[i] / mix.sum + (value_bias ? value_bias[own + i] : 0.0f));
    }
    store_pack(out + ((size_t)tile.out + row) * heads * D + own, packed);
}

// Keys and values of new rows, with their biases, into the cache [slots, heads, length, D]: a block a row.
template <class T, class S, int D>
__device__ void append(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values, float2 *scales, int heads,
                       int length) {
    int width = heads * D;
    uint4 row = rows[blockIdx.x];
    for (int start = 0; start < 2 * width; start += blockDim.x * OWN) {
        int at = start + threadIdx.x * OWN;
        bool owns = at < 2 * width, is_key = at < width;
        float own[OWN] = {};
        if (owns) load_biased(qkv + (size_t)blockIdx.x * 3 * width + width + at, bias + width + at, own);
        // By all lanes, also those beyond the end.
        float scale = SCALED<S> ? column_scale<D>(own) : 1.0f;
        int within = at % width;
        size_t column = ((size_t)row.z * heads + within / D) * length + row.w;
        keep(own, scale, (is_key ? keys : values) + column * D + within % D, owns);
        if (SCALED<S> && owns && within % D == 0) reinterpret_cast<float *>(scales + column)[is_key ? 0 : 1] = scale;
    }
}

// Columns of one slot to the same places of another: grid [copies, heads]. A copy is source, target, first column, count.
template <class S, int D>
__device__ void copy_columns(const uint4 *copies, S *keys, S *values, float2 *scales, int heads, int length) {
    constexpr int LENGTH = Pack<S>::LENGTH;
    uint4 copy = copies[blockIdx.x];
    size_t from = ((size_t)copy.x * heads + blockIdx.y) * length + copy.z;
    size_t to = ((size_t)copy.y * heads + blockIdx.y) * length + copy.z;
    for (size_t at = threadIdx.x * LENGTH; at < (size_t)copy.w * D; at += blockDim.x * LENGTH) {
        store_pack(keys + to * D + at, load_pack(keys + from * D + at));
        store_pack(values + to * D + at, load_pack(values + from * D + at));
    }
    if (SCALED<S>) {
        for (size_t at = threadIdx.x; at < copy.w; at += blockDim.x) scales[to + at] = scales[from + at];
    }
}
