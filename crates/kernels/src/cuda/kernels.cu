// The kernels by the names that the launchers load, one for each number format and head size.
#include "choose.cu"
#include "rows.cu"
#include "tiles.cu"

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

#define ROW_KERNELS(T, NAME)                                                                                             \
    KERNEL(1024) residual_norm_##NAME(float *x, const T *y, const float *y_bias, const unsigned *picks,                  \
                                      const float *weight, const float *bias, T *out, int width, float eps, int flags) { \
        begin();                                                                                                         \
        residual_norm<T>(x, y, y_bias, picks, weight, bias, out, width, eps, flags);                                     \
    }                                                                                                                    \
    KERNEL(1024) norm_rows_##NAME(T *rows, const float *weight, const float *bias, int width, float eps) {               \
        begin();                                                                                                         \
        norm_rows<T>(rows, weight, bias, width, eps);                                                                    \
    }                                                                                                                    \
    KERNEL(1024) gelu_norm_##NAME(T *inner, const float *inner_bias, const float *weight, const float *bias, int width,  \
                                  float eps) {                                                                           \
        begin();                                                                                                         \
        gelu_norm<T>(inner, inner_bias, weight, bias, width, eps);                                                       \
    }                                                                                                                    \
    KERNEL(256) quick_gelu_##NAME(T *inner, const float *bias, int width, unsigned long long count) {                    \
        begin();                                                                                                         \
        quick_gelu<T>(inner, bias, width, count);                                                                        \
    }                                                                                                                    \
    KERNEL(1024) embed_##NAME(const uint4 *rows, const unsigned long long *pictures, const T *table,                     \
                              const float *positions, float *x, int width, float scale) {                                \
        begin();                                                                                                         \
        embed<T>(rows, pictures, table, positions, x, width, scale);                                                     \
    }                                                                                                                    \
    KERNEL(256) cut_patches_##NAME(const T *pixels, T *out, int size, int patch, int padded) {                           \
        begin();                                                                                                         \
        cut_patches<T>(pixels, out, size, patch, padded);                                                                \
    }                                                                                                                    \
    KERNEL(1024) vision_rows_##NAME(const T *y, const float *class_row, const float *positions, const float *weight,     \
                                    const float *bias, float *x, int rows, int width, float eps) {                       \
        begin();                                                                                                         \
        vision_rows<T>(y, class_row, positions, weight, bias, x, rows, width, eps);                                      \
    }                                                                                                                    \
    KERNEL(1024) with_latent_##NAME(const T *h, const float *bias, const T *latent, T *out, int rows, int latents,       \
                                    int width) {                                                                         \
        begin();                                                                                                         \
        with_latent<T>(h, bias, latent, out, rows, latents, width);                                                      \
    }                                                                                                                    \
    KERNEL(1024) merge_norm_##NAME(const float *mixed, const float *weights, const float *weight, const float *bias,     \
                                   T *out, int heads, int head_dim, int splits, float eps) {                             \
        begin();                                                                                                         \
        merge_norm<T>(mixed, weights, weight, bias, out, heads, head_dim, splits, eps);                                  \
    }

#define FEW_ROWS(T, NAME, OUT, OUT_NAME, ROWS)                                                                           \
    extern "C" __global__ void __launch_bounds__(FEW_WARPS * WARP, 4) few_rows_##NAME##_##OUT_NAME##_##ROWS(             \
        const T *weights, const T *x, OUT *y, int inner, int outputs, int stride, int parts) {                           \
        few_rows<T, OUT, ROWS>(weights, x, y, inner, outputs, stride, parts);                                            \
    }

#define CACHE_KERNELS(T, NAME, S, D)                                                                                     \
    KERNEL(128) attend_newest_##NAME##_##D(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values,       \
                                           float2 *scales, float *mixed, float *weights, int heads, int length,          \
                                           int append, float scale) {                                                    \
        begin();                                                                                                         \
        attend_newest<T, S, D>(rows, qkv, bias, keys, values, scales, mixed, weights, heads, length, append, scale);     \
    }                                                                                                                    \
    KERNEL(256) append_##NAME##_##D(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values,              \
                                    float2 *scales, int heads, int length) {                                             \
        begin();                                                                                                         \
        append<T, S, D>(rows, qkv, bias, keys, values, scales, heads, length);                                           \
    }                                                                                                                    \
    KERNEL(128) copy_columns_##NAME##_##D(const uint4 *copies, S *keys, S *values, float2 *scales, int heads,            \
                                          int length) {                                                                  \
        begin();                                                                                                         \
        copy_columns<S, D>(copies, keys, values, scales, heads, length);                                                 \
    }

#define ROWS_KERNEL(T, NAME, D)                                                                                          \
    KERNEL(128) attend_rows_##NAME##_##D(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, \
                                         const T *keys, const T *values, const float2 *, unsigned long long context,     \
                                         unsigned long long head, unsigned column, const float *value_bias, T *out,      \
                                         int heads, float scale) {                                                       \
        begin();                                                                                                         \
        attend_rows<T, D>(tiles, queries, query_stride, query_bias, keys, values, Strides{context, head, column},        \
                          value_bias, out, heads, scale);                                                                \
    }

#define TILE_KERNEL(T, NAME, S, D)                                                                                       \
    KERNEL(TILE_WARPS * WARP) attend_tiles_##NAME##_##D(const Tile *tiles, const T *queries, int query_stride,           \
                                                        const float *query_bias, const S *keys, const S *values,         \
                                                        const float2 *scales, unsigned long long context,                \
                                                        unsigned long long head, unsigned column,                        \
                                                        const float *value_bias, T *out, int heads, float scale) {       \
        begin();                                                                                                         \
        attend_tiles<T, S, D>(tiles, queries, query_stride, query_bias, keys, values, scales,                            \
                              Strides{context, head, column}, value_bias, out, heads, scale);                            \
    }

#define FORMAT(T, NAME)                                                                                                  \
    ROW_KERNELS(T, NAME)                                                                                                 \
    FEW_ROWS(T, NAME, T, own, 1)                                                                                         \
    FEW_ROWS(T, NAME, T, own, 2)                                                                                         \
    CACHE_KERNELS(T, NAME, T, 16)                                                                                        \
    CACHE_KERNELS(T, NAME, T, 32)                                                                                        \
    CACHE_KERNELS(T, NAME, T, 64)                                                                                        \
    ROWS_KERNEL(T, NAME, 16)                                                                                             \
    ROWS_KERNEL(T, NAME, 32)                                                                                             \
    ROWS_KERNEL(T, NAME, 64)

#define HALF_FORMAT(T, NAME)                                                                                             \
    FORMAT(T, NAME)                                                                                                      \
    FEW_ROWS(T, NAME, float, wide, 1)                                                                                    \
    FEW_ROWS(T, NAME, float, wide, 2)                                                                                    \
    TILE_KERNEL(T, NAME, T, 16)                                                                                          \
    TILE_KERNEL(T, NAME, T, 32)                                                                                          \
    TILE_KERNEL(T, NAME, T, 64)                                                                                          \
    CACHE_KERNELS(T, NAME##_int8, int8, 16)                                                                              \
    CACHE_KERNELS(T, NAME##_int8, int8, 32)                                                                              \
    CACHE_KERNELS(T, NAME##_int8, int8, 64)                                                                              \
    TILE_KERNEL(T, NAME##_int8, int8, 16)                                                                                \
    TILE_KERNEL(T, NAME##_int8, int8, 32)                                                                                \
    TILE_KERNEL(T, NAME##_int8, int8, 64)

FORMAT(float, f32)
HALF_FORMAT(f16, f16)
HALF_FORMAT(bf16, bf16)

KERNEL(256) add_bias_f32(float *y, const float *bias, int width, unsigned long long count) {
    begin();
    add_bias(y, bias, width, count);
}

KERNEL(CHOOSE_THREADS) choose_tokens(const float *logits, int stride, int vocabulary, const uint4 *wants,
                                     const unsigned short *codes, uint4 *choices) {
    begin();
    choose(logits, stride, vocabulary, wants, codes, choices);
}
