// Attention of many queries at once on the tensor cores: 64 queries of one context and head a block, 16 a warp, keys
// and values 64 columns at a time through shared memory, softmax kept running (FlashAttention-2, Dao, 2023,
// <https://arxiv.org/abs/2307.08691>). For f16 and bf16.
#include "attention.cu"

constexpr int TILE = 64;
constexpr int TILE_WARPS = TILE / 16;
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

// Grid [heads, tiles]; arguments as attend_rows. D is a multiple of 16, up to 64.
template <class T, int D>
__device__ void attend_tiles(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, const T *keys,
                             const T *values, Strides strides, const float *value_bias, T *out, int heads, float scale) {
    alignas(16) __shared__ T shared_keys[TILE][D + PADDING], shared_values[TILE][D + PADDING];
    constexpr int LENGTH = Pack<T>::LENGTH, PACKS = D / LENGTH, BLOCKS = TILE / 8;
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
    int visible[2];
    for (int half = 0; half < 2; half++) visible[half] = tile.first_visible + (first_row + lane / 4 + half * 8) * tile.step;

    for (int start = 0; start < visible_to_all; start += TILE) {
        int columns = min(TILE, visible_to_all - start);
        __syncthreads();
        for (int at = threadIdx.x; at < TILE * PACKS; at += TILE_WARPS * WARP) {
            int column = at / PACKS, place = at % PACKS * LENGTH;
            Pack<T> key = {}, value = {};
            // Columns beyond the end are zero: a weight of 0 times what happens to lie there could be no number.
            if (column < columns) {
                key = load_pack(keys + origin + (size_t)(start + column) * strides.column + place);
                value = load_pack(values + origin + (size_t)(start + column) * strides.column + place);
            }
            store_pack(&shared_keys[column][place], key);
            store_pack(&shared_values[column][place], value);
        }
        __syncthreads();
        if (own_rows <= 0) continue;

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
        float now[2] = {most[0], most[1]};
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = start + block * 8 + lane % 4 * 2 + i % 2;
                bool seen = column < visible[i / 2] && column < start + columns;
                scores[block][i] = seen ? scores[block][i] * scale : -INFINITY;
                now[i / 2] = fmaxf(now[i / 2], scores[block][i]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            now[half] = fmaxf(now[half], __shfl_xor_sync(ALL_LANES, now[half], 1));
            now[half] = fmaxf(now[half], __shfl_xor_sync(ALL_LANES, now[half], 2));
            // Column 0 is seen by every row, so this is -inf for no row from the first tile on.
            float kept = exp2f(most[half] - now[half]);
            sum[half] *= kept;
            most[half] = now[half];
#pragma unroll
            for (int block = 0; block < D / 8; block++) {
                mixed[block][half * 2] *= kept;
                mixed[block][half * 2 + 1] *= kept;
            }
        }
#pragma unroll
        for (int block = 0; block < BLOCKS; block++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[block][i] = exp2f(scores[block][i] - most[i / 2]);
                sum[i / 2] += scores[block][i];
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
