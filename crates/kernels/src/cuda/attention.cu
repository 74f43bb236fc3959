// Attention over keys and values in place, one warp per query and head: decoding over slots of different lengths, and any
// rows in any format. It is bound by the bytes of keys and values, each of which is read once, 16 or 8 bytes per lane.
//
// T is the format of the computation. S is the format in which keys and values are stored: the same, or int8 with a scale
// for the key and one for the value of each token and head, a pair of f32. The error of an int8 value is at most 1/254 of
// the largest of the D values that share its scale.
#include "common.cuh"

constexpr int QUERY_WARPS = 4; // warps of a block, one head each

template <class S> constexpr bool SCALED = sizeof(S) == 1;

// Values of a column that one lane handles. With more than 8, sums and queries would fill the registers, and too few
// loads would be in flight to saturate the memory.
template <class S> constexpr int LANE_VALUES = sizeof(S) == 4 ? 4 : 8;

// Columns that a lane loads before it uses the first of them.
template <class S> constexpr int COLUMNS_IN_FLIGHT = SCALED<S> ? 8 : 4;

template <class S> struct alignas(LANE_VALUES<S> * sizeof(S)) LanePart {
    S at[LANE_VALUES<S>];
};

// Rows of queries over the same keys and values. Query i sees first_visible + i · step columns.
struct Tile {
    unsigned query, rows, context, first_visible, step, out;
};

// Distances between contexts, heads and columns of keys and values, in values.
struct Strides {
    unsigned long long context, head;
    unsigned column;
};

// The running softmax-weighted sum of one lane's part of the columns that its group of lanes handles.
template <int LENGTH> struct OnlineSoftmax {
    float largest = -INFINITY, sum = 0.0f, values[LENGTH] = {};
};

template <class S, int D> struct Lanes {
    static constexpr int LENGTH = LANE_VALUES<S>;
    static constexpr int PER_COLUMN = D / LENGTH;
    static constexpr int COLUMNS = WARP / PER_COLUMN; // columns that a warp handles at a time
};

template <class S> __device__ inline void widen_values(const LanePart<S> &part, float (&values)[LANE_VALUES<S>]) {
#pragma unroll
    for (int i = 0; i < LANE_VALUES<S>; i++) values[i] = widen(part.at[i]);
}

// The dot product of the query and a key, whose parts are distributed over the lanes of the column.
template <class S, int D>
__device__ inline float score(const float (&query)[LANE_VALUES<S>], const float (&key)[LANE_VALUES<S>]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_VALUES<S>; i++) sum += query[i] * key[i];
#pragma unroll
    for (int offset = Lanes<S, D>::PER_COLUMN / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    return sum;
}

// Adds columns first..end to the state. Keys and values begin at the lane's part of column 0, scales at column 0.
template <class S, int D>
__device__ inline void add_columns(OnlineSoftmax<LANE_VALUES<S>> &state, const float (&query)[LANE_VALUES<S>],
                                   const S *keys, const S *values, const float2 *scales, size_t stride, int first, int end) {
    constexpr int COLUMNS = Lanes<S, D>::COLUMNS, LENGTH = LANE_VALUES<S>;
    int group = threadIdx.x % WARP / Lanes<S, D>::PER_COLUMN;
    for (int start = first; start < end; start += COLUMNS * COLUMNS_IN_FLIGHT<S>) {
        LanePart<S> key[COLUMNS_IN_FLIGHT<S>] = {}, value[COLUMNS_IN_FLIGHT<S>] = {};
        float2 scale[COLUMNS_IN_FLIGHT<S>] = {};
#pragma unroll
        for (int a = 0; a < COLUMNS_IN_FLIGHT<S>; a++) {
            int column = start + a * COLUMNS + group;
            if (column < end) {
                key[a] = *reinterpret_cast<const LanePart<S> *>(keys + column * stride);
                value[a] = *reinterpret_cast<const LanePart<S> *>(values + column * stride);
                if (SCALED<S>) scale[a] = scales[column];
            }
        }
        float scores[COLUMNS_IN_FLIGHT<S>], largest = state.largest;
#pragma unroll
        for (int a = 0; a < COLUMNS_IN_FLIGHT<S>; a++) {
            float wide[LENGTH];
            widen_values(key[a], wide);
            float s = score<S, D>(query, wide);
            if (SCALED<S>) s *= scale[a].x;
            scores[a] = start + a * COLUMNS + group < end ? s : -INFINITY;
            largest = fmaxf(largest, scores[a]);
        }
        // A group without any column so far must not subtract -inf from -inf.
        float base = largest == -INFINITY ? 0.0f : largest;
        float rescale = exp2_approx(state.largest - base);
        state.sum *= rescale;
#pragma unroll
        for (int i = 0; i < LENGTH; i++) state.values[i] *= rescale;
#pragma unroll
        for (int a = 0; a < COLUMNS_IN_FLIGHT<S>; a++) {
            float weight = exp2_approx(scores[a] - base);
            state.sum += weight;
            if (SCALED<S>) weight *= scale[a].y;
#pragma unroll
            for (int i = 0; i < LENGTH; i++) state.values[i] += weight * widen(value[a].at[i]);
        }
        state.largest = largest;
    }
}

// Adds one column, of which every lane has the score and its part of the value, to the state of the first group.
template <int LENGTH>
__device__ inline void add_column(OnlineSoftmax<LENGTH> &state, float s, const float (&value)[LENGTH]) {
    float largest = fmaxf(state.largest, s), rescale = exp2_approx(state.largest - largest);
    float weight = exp2_approx(s - largest);
    state.sum = state.sum * rescale + weight;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) state.values[i] = state.values[i] * rescale + weight * value[i];
    state.largest = largest;
}

// Merges the states of all groups of lanes; every lane gets the result.
template <class S, int D> __device__ inline void merge_groups(OnlineSoftmax<LANE_VALUES<S>> &state) {
#pragma unroll
    for (int offset = Lanes<S, D>::PER_COLUMN; offset < WARP; offset *= 2) {
        float other = __shfl_xor_sync(ALL_LANES, state.largest, offset);
        float sum = __shfl_xor_sync(ALL_LANES, state.sum, offset);
        float largest = fmaxf(state.largest, other), base = largest == -INFINITY ? 0.0f : largest;
        float rescale = exp2_approx(state.largest - base), other_rescale = exp2_approx(other - base);
        state.sum = state.sum * rescale + sum * other_rescale;
#pragma unroll
        for (int i = 0; i < LANE_VALUES<S>; i++) {
            float value = __shfl_xor_sync(ALL_LANES, state.values[i], offset);
            state.values[i] = state.values[i] * rescale + value * other_rescale;
        }
        state.largest = largest;
    }
}

// Values of a product plus their bias, rounded to the format.
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

// The scale of D values that adjacent lanes hold, LENGTH each.
template <int D, int LENGTH> __device__ inline float column_scale(const float (&values)[LENGTH]) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) largest = fmaxf(largest, fabsf(values[i]));
#pragma unroll
    for (int offset = D / LENGTH / 2; offset > 0; offset /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
    }
    return largest / 127.0f;
}

// Rounds a part of a column to the format of the cache and stores it if `writes`. `values` become the rounded values. The
// scale is that of the whole column.
template <class S, int LENGTH>
__device__ inline void store_cached(float (&values)[LENGTH], float scale, S *to, bool writes) {
    alignas(sizeof(S) * LENGTH) S stored[LENGTH];
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        if constexpr (SCALED<S>) {
            stored[i] = (int8)(scale > 0.0f ? rintf(values[i] / scale) : 0.0f);
            values[i] = widen(stored[i]) * scale;
        } else {
            stored[i] = narrow<S>(values[i]);
        }
    }
    if (!writes) return;
    struct alignas(sizeof(S) * LENGTH) Vector {
        S at[LENGTH];
    };
    *reinterpret_cast<Vector *>(to) = *reinterpret_cast<Vector *>(stored);
}

// Attention of one new token per row over its slot: grid [heads / QUERY_WARPS, rows, splits of the context].
//
// `rows` holds token, position, slot and the column of the row's own key, which is the number of columns before it. With
// `append` the row's own key and value are read from `qkv` and written to the cache here; otherwise they are there
// already. Each split writes its weighted sum to `partial_sums` [rows, heads, splits, D], and its largest score and sum of
// weights to `softmax_stats` [rows, heads, splits, 2]. merge_norm combines them.
template <class T, class S, int D>
__device__ void attend_newest(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values, float2 *scales,
                              float *partial_sums, float *softmax_stats, int heads, int length, int append, float scale) {
    constexpr int LENGTH = LANE_VALUES<S>, COLUMNS = Lanes<S, D>::COLUMNS;
    int head = blockIdx.x * QUERY_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (head >= heads) return;
    int first_dim = lane % Lanes<S, D>::PER_COLUMN * LENGTH, width = heads * D, offset = head * D + first_dim;
    uint4 row = rows[blockIdx.y];
    int column = row.w, total = column + 1, splits = gridDim.z;
    const T *from = qkv + (size_t)blockIdx.y * 3 * width + offset;
    float query[LENGTH];
    load_biased(from, bias + offset, query);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] *= scale;

    size_t first_column = ((size_t)row.z * heads + head) * length, origin = first_column * D + first_dim;
    if (SCALED<S>) scales += first_column;
    int columns_per_split = (total + splits - 1) / splits;
    columns_per_split = (columns_per_split + COLUMNS - 1) / COLUMNS * COLUMNS;
    int first = blockIdx.z * columns_per_split, end = min(first + columns_per_split, total);
    bool adds_new = append && first < end && end == total;
    OnlineSoftmax<LENGTH> state;
    add_columns<S, D>(state, query, keys + origin, values + origin, scales, D, first, adds_new ? column : end);
    if (adds_new) {
        float key[LENGTH], value[LENGTH];
        load_biased(from + width, bias + width + offset, key);
        load_biased(from + 2 * width, bias + 2 * width + offset, value);
        float key_scale = SCALED<S> ? column_scale<D>(key) : 1.0f, value_scale = SCALED<S> ? column_scale<D>(value) : 1.0f;
        bool writes = lane < Lanes<S, D>::PER_COLUMN;
        store_cached(key, key_scale, keys + origin + (size_t)column * D, writes);
        store_cached(value, value_scale, values + origin + (size_t)column * D, writes);
        if (SCALED<S> && lane == 0) scales[column] = make_float2(key_scale, value_scale);
        float s = score<S, D>(query, key);
        if (writes) add_column(state, s, value);
    }
    merge_groups<S, D>(state);
    size_t part = ((size_t)blockIdx.y * heads + head) * splits + blockIdx.z;
    if (lane < Lanes<S, D>::PER_COLUMN) {
#pragma unroll
        for (int i = 0; i < LENGTH; i++) partial_sums[part * D + first_dim + i] = state.values[i];
    }
    if (lane == 0) {
        softmax_stats[2 * part] = state.largest;
        softmax_stats[2 * part + 1] = state.sum;
    }
}

// Combines the splits of attend_newest and applies Magneto's layer norm to the concatenated heads: one block per row.
template <class T>
__device__ void merge_norm(const float *partial_sums, const float *softmax_stats, const float *weight, const float *bias,
                           T *out, int heads, int head_dim, int splits, float eps) {
    int first = threadIdx.x * PER_THREAD, width = heads * head_dim;
    bool active = first < width;
    float sums[PER_THREAD] = {};
    if (active) {
        size_t part = ((size_t)blockIdx.x * heads + first / head_dim) * splits;
        float largest = -INFINITY, sum = 0.0f;
        for (int s = 0; s < splits; s++) largest = fmaxf(largest, softmax_stats[2 * (part + s)]);
        for (int s = 0; s < splits; s++) {
            // The weight of a split without columns is exp2(-inf) = 0.
            float rescale = exp2_approx(softmax_stats[2 * (part + s)] - largest), values[PER_THREAD];
            sum += rescale * softmax_stats[2 * (part + s) + 1];
            load_values(partial_sums + (part + s) * head_dim + first % head_dim, values);
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) sums[i] += rescale * values[i];
        }
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) sums[i] /= sum;
    }
    layer_norm(sums, active, width, eps, weight, bias);
    if (active) store_values(out + (size_t)blockIdx.x * width + first, sums);
}

// Attention of any rows: grid [heads / QUERY_WARPS, tiles, rows of a tile]. The biases of queries and values may be null.
// A bias of the keys would add the same to all scores of a query and so not change the softmax.
template <class T, int D>
__device__ void attend_rows(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, const T *keys,
                            const T *values, Strides strides, const float *value_bias, T *out, int heads, float scale) {
    constexpr int LENGTH = Pack<T>::LENGTH;
    Tile tile = tiles[blockIdx.y];
    int head = blockIdx.x * QUERY_WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.z;
    if (head >= heads || row >= (int)tile.rows) return;
    int first_dim = lane % Lanes<T, D>::PER_COLUMN * LENGTH, offset = head * D + first_dim;
    float query[LENGTH];
    load_biased(queries + (size_t)(tile.query + row) * query_stride + offset,
                query_bias ? query_bias + offset : nullptr, query);
#pragma unroll
    for (int i = 0; i < LENGTH; i++) query[i] *= scale;
    size_t origin = tile.context * strides.context + head * strides.head + first_dim;
    OnlineSoftmax<LENGTH> state;
    add_columns<T, D>(state, query, keys + origin, values + origin, nullptr, strides.column, 0,
                      tile.first_visible + row * tile.step);
    merge_groups<T, D>(state);
    if (lane >= Lanes<T, D>::PER_COLUMN) return;
    Pack<T> packed;
#pragma unroll
    for (int i = 0; i < LENGTH; i++) {
        packed.at[i] = narrow<T>(state.values[i] / state.sum + (value_bias ? value_bias[offset + i] : 0.0f));
    }
    store_pack(out + ((size_t)tile.out + row) * heads * D + offset, packed);
}

// Writes the keys and values of new rows, plus their biases, to the cache [slots, heads, length, D]: one block per row.
template <class T, class S, int D>
__device__ void append(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values, float2 *scales, int heads,
                       int length) {
    int width = heads * D;
    uint4 row = rows[blockIdx.x];
    for (int start = 0; start < 2 * width; start += blockDim.x * PER_THREAD) {
        int at = start + threadIdx.x * PER_THREAD;
        bool active = at < 2 * width, is_key = at < width;
        float part[PER_THREAD] = {};
        if (active) load_biased(qkv + (size_t)blockIdx.x * 3 * width + width + at, bias + width + at, part);
        // Called by all lanes, including those beyond the end.
        float scale = SCALED<S> ? column_scale<D>(part) : 1.0f;
        int in_side = at % width;
        size_t column = ((size_t)row.z * heads + in_side / D) * length + row.w;
        store_cached(part, scale, (is_key ? keys : values) + column * D + in_side % D, active);
        if (SCALED<S> && active && in_side % D == 0) reinterpret_cast<float *>(scales + column)[is_key ? 0 : 1] = scale;
    }
}

// Copies columns of one slot to the same columns of another: grid [copies, heads]. A copy is source, target, first
// column, count.
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
