// Attention of many queries on the tensor cores, with an online softmax (FlashAttention-2, Dao, 2023,
// <https://arxiv.org/abs/2307.08691>). A block computes 128 queries of one context and head, 16 per warp. Keys and values
// pass through shared memory 64 columns at a time; the next ones are loaded while the current ones are multiplied. For
// f16 and bf16.
#include "attention.cu"

constexpr int TILE_COLUMNS = 64;
constexpr int TILE_WARPS = 8;
constexpr int TILE_ROWS = TILE_WARPS * 16;
// Padding of a row in shared memory, so that the eight rows that one ldmatrix reads start in different banks.
constexpr int PADDING = 8;

#ifndef KERNELS_ON_HOST
// c += a b for a [16, 16], b [16, 8] and c [16, 8], distributed over a warp as PTX's mma.m16n8k16 specifies.
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Loads four 8 x 8 matrices; lane 8 i + j provides the address of row j of matrix i.
template <class T> __device__ inline void ldmatrix(unsigned (&to)[4], const T *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address) : "memory");
}
template <class T> __device__ inline void ldmatrix_transposed(unsigned (&to)[4], const T *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address) : "memory");
}
// Copies 16 bytes, or zeros, to shared memory asynchronously.
template <class T> __device__ inline void copy_async(T *to, const T *from, bool in_range) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(in_range ? 16 : 0) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most GROUPS of the thread's committed groups of copies are pending.
template <int GROUPS> __device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory"); }
#endif

template <class T> struct alignas(4) Pair {
    T low, high;
};

template <class T> __device__ inline unsigned pack_pair(float low, float high) {
    Pair<T> both = {narrow<T>(low), narrow<T>(high)};
    return *reinterpret_cast<unsigned *>(&both);
}

// Loads a warp's 16 queries in the layout of the left operand of mma: rows lane / 4 and lane / 4 + 8, pairs of values
// lane % 4.
template <class T, int D>
__device__ inline void load_queries(unsigned (&query)[D / 16][4], const T *queries, int stride, const float *bias, int rows) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int part = 0; part < D / 16; part++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i % 2 * 8, at = part * 16 + i / 2 * 8 + lane % 4 * 2;
            float low = 0.0f, high = 0.0f;
            if (row < rows) {
                Pair<T> both = *reinterpret_cast<const Pair<T> *>(queries + (size_t)row * stride + at);
                low = widen(both.low) + (bias ? bias[at] : 0.0f);
                high = widen(both.high) + (bias ? bias[at + 1] : 0.0f);
            }
            query[part][i] = pack_pair<T>(low, high);
        }
    }
}

template <class T, class S> __device__ inline void store_scaled(T *to, const Pack<S> &pack, float scale) {
#pragma unroll
    for (int first = 0; first < Pack<S>::LENGTH; first += Pack<T>::LENGTH) {
        Pack<T> part;
#pragma unroll
        for (int i = 0; i < Pack<T>::LENGTH; i++) part.at[i] = narrow<T>(widen(pack.at[first + i]) * scale);
        store_pack(to + first, part);
    }
}

// Loads columns start..start + columns of keys and values. Those beyond are zeros, because 0 times an arbitrary value
// could be NaN.
template <class T, class S, int D>
__device__ inline void load_columns(T (&to_keys)[TILE_COLUMNS][D + PADDING], T (&to_values)[TILE_COLUMNS][D + PADDING],
                                    const S *keys, const S *values, const float2 *scales, size_t stride, int start,
                                    int columns) {
    constexpr int LENGTH = Pack<S>::LENGTH, PACKS = D / LENGTH;
    for (int at = threadIdx.x; at < TILE_COLUMNS * PACKS; at += TILE_WARPS * WARP) {
        int column = at / PACKS, dim = at % PACKS * LENGTH;
        bool in_range = column < columns;
        size_t from = (in_range ? start + column : start) * stride + dim;
        if constexpr (SCALED<S>) {
            float2 scale = in_range ? scales[start + column] : make_float2(0.0f, 0.0f);
            store_scaled(&to_keys[column][dim], load_pack(keys + from), scale.x);
            store_scaled(&to_values[column][dim], load_pack(values + from), scale.y);
        } else {
            copy_async(&to_keys[column][dim], keys + from, in_range);
            copy_async(&to_values[column][dim], values + from, in_range);
        }
    }
    commit_copies();
}

// Grid [heads, tiles]. The arguments are those of attend_rows plus the scales of int8 keys and values, which must be
// contiguous. D is a multiple of 16, up to 64.
template <class T, class S, int D>
__device__ void attend_tiles(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, const S *keys,
                             const S *values, const float2 *scales, Strides strides, const float *value_bias, T *out,
                             int heads, float scale) {
    alignas(16) __shared__ T key_stages[2][TILE_COLUMNS][D + PADDING], value_stages[2][TILE_COLUMNS][D + PADDING];
    constexpr int BLOCKS = TILE_COLUMNS / 8;
    Tile tile = tiles[blockIdx.y];
    int head = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first_row = warp * 16, warp_rows = (int)tile.rows - first_row;
    int visible_to_all = tile.first_visible + (tile.rows - 1) * tile.step;
    size_t origin = tile.context * strides.context + head * strides.head;

    unsigned query[D / 16][4];
    load_queries<T, D>(query, queries + (size_t)(tile.query + first_row) * query_stride + head * D, query_stride,
                       query_bias ? query_bias + head * D : nullptr, warp_rows);
    // Each lane handles two rows: lane / 4 and lane / 4 + 8.
    float output[D / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    int visible[2], visible_to_first = tile.first_visible + first_row * tile.step;
    for (int half = 0; half < 2; half++) visible[half] = visible_to_first + (lane / 4 + half * 8) * tile.step;

    keys += origin;
    values += origin;
    if (SCALED<S>) scales += origin / D;
    auto load = [&](int start) {
        int stage = start / TILE_COLUMNS % 2, columns = min(TILE_COLUMNS, visible_to_all - start);
        load_columns<T, S, D>(key_stages[stage], value_stages[stage], keys, values, scales, strides.column, start,
                              columns);
    };
    load(0);
    for (int start = 0; start < visible_to_all; start += TILE_COLUMNS) {
        int columns = min(TILE_COLUMNS, visible_to_all - start);
        if (start + TILE_COLUMNS < visible_to_all) {
            load(start + TILE_COLUMNS);
            wait_for_copies<1>();
        } else {
            wait_for_copies<0>();
        }
        __syncthreads();
        auto &shared_keys = key_stages[start / TILE_COLUMNS % 2], &shared_values = value_stages[start / TILE_COLUMNS % 2];

        if (warp_rows > 0) {
            float scores[BLOCKS][4] = {};
#pragma unroll
            for (int block = 0; block < BLOCKS; block += 2) {
                if (block * 8 < columns) {
#pragma unroll
                    for (int part = 0; part < D / 16; part++) {
                        unsigned key[4];
                        ldmatrix(key, &shared_keys[block * 8 + lane / 16 * 8 + lane % 8][part * 16 + lane / 8 % 2 * 8]);
                        mma(scores[block], query[part], key[0], key[1], T());
                        mma(scores[block + 1], query[part], key[2], key[3], T());
                    }
                }
            }
            // Most tiles are fully visible to all rows of the warp and need no mask.
            if (start + TILE_COLUMNS > min(visible_to_first, visible_to_all)) {
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int column = start + block * 8 + lane % 4 * 2 + i % 2;
                        if (column >= visible[i / 2] || column >= visible_to_all) scores[block][i] = -INFINITY;
                    }
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float new_largest = largest[half];
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
                    new_largest = fmaxf(new_largest, fmaxf(scores[block][half * 2], scores[block][half * 2 + 1]));
                }
                new_largest = fmaxf(new_largest, __shfl_xor_sync(ALL_LANES, new_largest, 1));
                new_largest = fmaxf(new_largest, __shfl_xor_sync(ALL_LANES, new_largest, 2));
                // Every row sees column 0, so its largest score is finite from the first tile on.
                float rescale = exp2_approx((largest[half] - new_largest) * scale), base = new_largest * scale;
                largest[half] = new_largest;
                sum[half] *= rescale;
#pragma unroll
                for (int block = 0; block < D / 8; block++) {
                    output[block][half * 2] *= rescale;
                    output[block][half * 2 + 1] *= rescale;
                }
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
                    for (int i = half * 2; i < half * 2 + 2; i++) {
                        scores[block][i] = exp2_approx(scores[block][i] * scale - base);
                        sum[half] += scores[block][i];
                    }
                }
            }
#pragma unroll
            for (int block = 0; block < BLOCKS; block += 2) {
                if (block * 8 < columns) {
                    // The layout of the result of mma is that of the left operand of the next.
                    unsigned weight[4] = {pack_pair<T>(scores[block][0], scores[block][1]),
                                          pack_pair<T>(scores[block][2], scores[block][3]),
                                          pack_pair<T>(scores[block + 1][0], scores[block + 1][1]),
                                          pack_pair<T>(scores[block + 1][2], scores[block + 1][3])};
#pragma unroll
                    for (int part = 0; part < D / 16; part++) {
                        unsigned value[4];
                        int column = block * 8 + lane / 8 % 2 * 8 + lane % 8;
                        ldmatrix_transposed(value, &shared_values[column][part * 16 + lane / 16 * 8]);
                        mma(output[part * 2], weight, value[0], value[1], T());
                        mma(output[part * 2 + 1], weight, value[2], value[3], T());
                    }
                }
            }
        }
        __syncthreads(); // the next iteration overwrites this stage
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 1);
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 2);
        int row = lane / 4 + half * 8;
        if (row >= warp_rows) continue;
        T *to = out + ((size_t)tile.out + first_row + row) * heads * D + head * D;
#pragma unroll
        for (int block = 0; block < D / 8; block++) {
            int at = block * 8 + lane % 4 * 2;
            float low = output[block][half * 2] / sum[half], high = output[block][half * 2 + 1] / sum[half];
            if (value_bias) {
                low += value_bias[head * D + at];
                high += value_bias[head * D + at + 1];
            }
            *reinterpret_cast<unsigned *>(to + at) = pack_pair<T>(low, high);
        }
    }
}
