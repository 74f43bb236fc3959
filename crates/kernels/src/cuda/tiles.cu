// Attention of many queries at once on the tensor cores: 128 queries of one context and head a block, 16 a warp, keys
// and values 64 columns at a time through shared memory, the next on their way while these are multiplied, softmax kept
// running (FlashAttention-2, Dao, 2023, <https://arxiv.org/abs/2307.08691>). For f16 and bf16.
#include "attention.cu"

constexpr int TILE = 64; // columns
constexpr int TILE_WARPS = 8;
constexpr int TILE_ROWS = TILE_WARPS * 16;
// Of a shared row: eight rows that a matrix load reads together then begin in different banks.
constexpr int PADDING = 8;

#ifndef KERNELS_ON_HOST
// c += a b for a [16, 16], b [16, 8], c [16, 8], spread over a warp as PTX's mma.m16n8k16 has it.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Four 8 x 8 matrices; lane 8 i + j gives the address of row j of matrix i.
template <class T> __device__ inline void load_matrices(unsigned (&to)[4], const T *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address) : "memory");
}
template <class T> __device__ inline void load_transposed(unsigned (&to)[4], const T *row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address) : "memory");
}
// Sixteen bytes to shared memory, or zeros, while the thread goes on.
template <class T> __device__ inline void copy_ahead(T *to, const T *from, bool there) {
    unsigned address = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ inline void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until no more than so many of the thread's closed groups of copies are under way.
template <int GROUPS> __device__ inline void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory"); }
#endif

template <class T> struct alignas(4) Pair {
    T low, high;
};

template <class T> __device__ inline unsigned pair(float low, float high) {
    Pair<T> both = {narrow<T>(low), narrow<T>(high)};
    return *reinterpret_cast<unsigned *>(&both);
}

// A warp's 16 queries in the layout of the products' left factor: rows lane / 4 and 8 below, pairs of values lane % 4.
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
            query[part][i] = pair<T>(low, high);
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

// Columns start..start + columns of keys and values; those beyond are zero, for a weight of 0 times what happens to lie
// there could be no number.
template <class T, class S, int D>
__device__ inline void fetch_columns(T (&to_keys)[TILE][D + PADDING], T (&to_values)[TILE][D + PADDING], const S *keys,
                                     const S *values, const float2 *scales, size_t stride, int start, int columns) {
    constexpr int LENGTH = Pack<S>::LENGTH, PACKS = D / LENGTH;
    for (int at = threadIdx.x; at < TILE * PACKS; at += TILE_WARPS * WARP) {
        int column = at / PACKS, place = at % PACKS * LENGTH;
        bool there = column < columns;
        size_t from = (there ? start + column : start) * stride + place;
        if constexpr (SCALED<S>) {
            float2 scale = there ? scales[start + column] : make_float2(0.0f, 0.0f);
            store_scaled(&to_keys[column][place], load_pack(keys + from), scale.x);
            store_scaled(&to_values[column][place], load_pack(values + from), scale.y);
        } else {
            copy_ahead(&to_keys[column][place], keys + from, there);
            copy_ahead(&to_values[column][place], values + from, there);
        }
    }
    close_copies();
}

// Grid [heads, tiles]; arguments as attend_rows, and the scales of kept keys and values, which lie densely. D is a
// multiple of 16, up to 64.
template <class T, class S, int D>
__device__ void attend_tiles(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, const S *keys,
                             const S *values, const float2 *scales, Strides strides, const float *value_bias, T *out,
                             int heads, float scale) {
    alignas(16) __shared__ T stages_of_keys[2][TILE][D + PADDING], stages_of_values[2][TILE][D + PADDING];
    constexpr int BLOCKS = TILE / 8;
    Tile tile = tiles[blockIdx.y];
    int head = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first_row = warp * 16, own_rows = (int)tile.rows - first_row;
    int visible_to_all = tile.first_visible + (tile.rows - 1) * tile.step;
    size_t origin = tile.context * strides.context + head * strides.head;

    unsigned query[D / 16][4];
    load_queries<T, D>(query, queries + (size_t)(tile.query + first_row) * query_stride + head * D, query_stride,
                       query_bias ? query_bias + head * D : nullptr, own_rows);
    // Each lane keeps two rows: lane / 4 and 8 below.
    float mixed[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
    int visible[2], visible_to_first = tile.first_visible + first_row * tile.step;
    for (int half = 0; half < 2; half++) visible[half] = visible_to_first + (lane / 4 + half * 8) * tile.step;

    keys += origin;
    values += origin;
    if (SCALED<S>) scales += origin / D;
    auto fetch = [&](int start) {
        int stage = start / TILE % 2, columns = min(TILE, visible_to_all - start);
        fetch_columns<T, S, D>(stages_of_keys[stage], stages_of_values[stage], keys, values, scales, strides.column, start,
                               columns);
    };
    fetch(0);
    for (int start = 0; start < visible_to_all; start += TILE) {
        int columns = min(TILE, visible_to_all - start);
        if (start + TILE < visible_to_all) {
            fetch(start + TILE);
            wait_for_copies<1>();
        } else {
            wait_for_copies<0>();
        }
        __syncthreads();
        auto &shared_keys = stages_of_keys[start / TILE % 2], &shared_values = stages_of_values[start / TILE % 2];

        if (own_rows > 0) {
            float scores[BLOCKS][4] = {};
#pragma unroll
            for (int block = 0; block < BLOCKS; block += 2) {
                if (block * 8 < columns) {
#pragma unroll
                    for (int part = 0; part < D / 16; part++) {
                        unsigned key[4];
                        load_matrices(key, &shared_keys[block * 8 + lane / 16 * 8 + lane % 8][part * 16 + lane / 8 % 2 * 8]);
                        multiply(scores[block], query[part], key[0], key[1], T());
                        multiply(scores[block + 1], query[part], key[2], key[3], T());
                    }
                }
            }
            // Most tiles are seen whole by all the warp's rows.
            if (start + TILE > min(visible_to_first, visible_to_all)) {
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
                float now = most[half];
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
                    now = fmaxf(now, fmaxf(scores[block][half * 2], scores[block][half * 2 + 1]));
                }
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 1));
                now = fmaxf(now, __shfl_xor_sync(ALL_LANES, now, 2));
                // Column 0 is seen by every row, so this is -inf for no row from the first tile on.
                float kept = power_of_two((most[half] - now) * scale), base = now * scale;
                most[half] = now;
                sum[half] *= kept;
#pragma unroll
                for (int block = 0; block < D / 8; block++) {
                    mixed[block][half * 2] *= kept;
                    mixed[block][half * 2 + 1] *= kept;
                }
#pragma unroll
                for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
                    for (int i = half * 2; i < half * 2 + 2; i++) {
                        scores[block][i] = power_of_two(scores[block][i] * scale - base);
                        sum[half] += scores[block][i];
                    }
                }
            }
#pragma unroll
            for (int block = 0; block < BLOCKS; block += 2) {
                if (block * 8 < columns) {
                    // The layout of a product's result is that of the next one's left factor.
                    unsigned weight[4] = {pair<T>(scores[block][0], scores[block][1]), pair<T>(scores[block][2], scores[block][3]),
                                          pair<T>(scores[block + 1][0], scores[block + 1][1]),
                                          pair<T>(scores[block + 1][2], scores[block + 1][3])};
#pragma unroll
                    for (int part = 0; part < D / 16; part++) {
                        unsigned value[4];
                        load_transposed(value, &shared_values[block * 8 + lane / 8 % 2 * 8 + lane % 8][part * 16 + lane / 16 * 8]);
                        multiply(mixed[part * 2], weight, value[0], value[1], T());
                        multiply(mixed[part * 2 + 1], weight, value[2], value[3], T());
                    }
                }
            }
        }
        __syncthreads(); // the stage is written again in the next round
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 1);
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 2);
        int row = lane / 4 + half * 8;
        if (row >= own_rows) continue;
        T *to = out + ((size_t)tile.out + first_row + row) * heads * D + head * D;
#pragma unroll
        for (int block = 0; block < D / 8; block++) {
            int at = block * 8 + lane % 4 * 2;
            float low = mixed[block][half * 2] / sum[half], high = mixed[block][half * 2 + 1] / sum[half];
            if (value_bias) {
                low += value_bias[head * D + at];
                high += value_bias[head * D + at + 1];
            }
            *reinterpret_cast<unsigned *>(to + at) = pair<T>(low, high);
        }
    }
}
