// The kernels under the names that the launchers load, one for each number format and head size.
#include "rows.cu"
#include "select_token.cu"
#include "tiles.cu"

#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

#define ROW_KERNELS(T, NAME)                                                                                             \
    KERNEL(1024) residual_norm_##NAME(float *x, const T *y, const float *y_bias, const unsigned *row_indices,            \
                                      const float *weight, const float *bias, T *out, int width, float eps, int flags) { \
        begin_kernel();                                                                                                  \
        residual_norm<T>(x, y, y_bias, row_indices, weight, bias, out, width, eps, flags);                               \
    }                                                                                                                    \
    KERNEL(1024) norm_rows_##NAME(T *rows, const float *weight, const float *bias, int width, float eps) {               \
        begin_kernel();                                                                                                  \
        norm_rows<T>(rows, weight, bias, width, eps);                                                                    \
    }                                                                                                                    \
    KERNEL(1024) gelu_norm_##NAME(T *inner, const float *inner_bias, const float *weight, const float *bias, int width,  \
                                  float eps) {                                                                           \
        begin_kernel();                                                                                                  \
        gelu_norm<T>(inner, inner_bias, weight, bias, width, eps);                                                       \
    }                                                                                                                    \
    KERNEL(256) quick_gelu_##NAME(T *inner, const float *bias, int width, unsigned long long count) {                    \
        begin_kernel();                                                                                                  \
        quick_gelu<T>(inner, bias, width, count);                                                                        \
    }                                                                                                                    \
    KERNEL(1024) embed_##NAME(const uint4 *rows, const unsigned long long *image_rows, const T *table,                   \
                              const float *positions, float *x, int width, float scale) {                                \
        begin_kernel();                                                                                                  \
        embed<T>(rows, image_rows, table, positions, x, width, scale);                                                   \
    }                                                                                                                    \
    KERNEL(256) cut_patches_##NAME(const T *pixels, T *out, int size, int patch, int padded) {                           \
        begin_kernel();                                                                                                  \
        cut_patches<T>(pixels, out, size, patch, padded);                                                                \
    }                                                                                                                    \
    KERNEL(1024) vision_rows_##NAME(const T *y, const float *class_row, const float *positions, const float *weight,     \
                                    const float *bias, float *x, int rows, int width, float eps) {                       \
        begin_kernel();                                                                                                  \
        vision_rows<T>(y, class_row, positions, weight, bias, x, rows, width, eps);                                      \
    }                                                                                                                    \
    KERNEL(1024) with_latent_##NAME(const T *h, const float *bias, const T *latent, T *out, int rows, int latents,       \
                                    int width) {                                                                         \
        begin_kernel();                                                                                                  \
        with_latent<T>(h, bias, latent, out, rows, latents, width);                                                      \
    }                                                                                                                    \
    KERNEL(1024) merge_norm_##NAME(const float *partial_sums, const float *softmax_stats, const float *weight,           \
                                   const float *bias, T *out, int heads, int head_dim, int splits, float eps) {          \
        begin_kernel();                                                                                                  \
        merge_norm<T>(partial_sums, softmax_stats, weight, bias, out, heads, head_dim, splits, eps);                     \
    }

#define FEW_ROWS(T, NAME, OUT, OUT_NAME, ROWS)                                                                           \
    extern "C" __global__ void __launch_bounds__(FEW_WARPS * WARP, 4) few_rows_##NAME##_##OUT_NAME##_##ROWS(             \
        const T *weights, const T *x, OUT *y, int inner, int outputs, int stride, int warps_per_output) {                \
        few_rows<T, OUT, ROWS>(weights, x, y, inner, outputs, stride, warps_per_output);                                 \
    }

#define CACHE_KERNELS(T, NAME, S, D)                                                                                     \
    KERNEL(128) attend_newest_##NAME##_##D(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values,       \
                                           float2 *scales, float *partial_sums, float *softmax_stats, int heads,         \
                                           int length, int append, float scale) {                                        \
        begin_kernel();                                                                                                  \
        attend_newest<T, S, D>(rows, qkv, bias, keys, values, scales, partial_sums, softmax_stats, heads, length,        \
                               append, scale);                                                                           \
    }                                                                                                                    \
    KERNEL(256) append_##NAME##_##D(const uint4 *rows, const T *qkv, const float *bias, S *keys, S *values,              \
                                    float2 *scales, int heads, int length) {                                             \
        begin_kernel();                                                                                                  \
        append<T, S, D>(rows, qkv, bias, keys, values, scales, heads, length);                                           \
    }                                                                                                                    \
    KERNEL(128) copy_columns_##NAME##_##D(const uint4 *copies, S *keys, S *values, float2 *scales, int heads,            \
                                          int length) {                                                                  \
        begin_kernel();                                                                                                  \
        copy_columns<S, D>(copies, keys, values, scales, heads, length);                                                 \
    }

#define ROWS_KERNEL(T, NAME, D)                                                                                          \
    KERNEL(128) attend_rows_##NAME##_##D(const Tile *tiles, const T *queries, int query_stride, const float *query_bias, \
                                         const T *keys, const T *values, const float2 *, unsigned long long context,     \
                                         unsigned long long head, unsigned column, const float *value_bias, T *out,      \
                                         int heads, float scale) {                                                       \
        begin_kernel();                                                                                                  \
        attend_rows<T, D>(tiles, queries, query_stride, query_bias, keys, values, Strides{context, head, column},        \
                          value_bias, out, heads, scale);                                                                \
    }

#define TILE_KERNEL(T, NAME, S, D)                                                                                       \
    KERNEL(TILE_WARPS * WARP) attend_tiles_##NAME##_##D(const Tile *tiles, const T *queries, int query_stride,           \
                                                        const float *query_bias, const S *keys, const S *values,         \
                                                        const float2 *scales, unsigned long long context,                \
                                                        unsigned long long head, unsigned column,                        \
                                                        const float *value_bias, T *out, int heads, float scale) {       \
        begin_kernel();                                                                                                  \
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
    begin_kernel();
    add_bias(y, bias, width, count);
}

KERNEL(SELECT_THREADS) select_tokens(const float *logits, int stride, int vocabulary, const uint4 *requests,
                                     const unsigned short *codes, uint4 *results) {
    begin_kernel();
    select_token(logits, stride, vocabulary, requests, codes, results);
}
