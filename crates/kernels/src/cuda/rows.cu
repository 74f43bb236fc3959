// Kernels that process whole rows: one block per row, PER_THREAD adjacent values per thread.
#include "common.cuh"

constexpr int FEW_WARPS = 8;
// Loads of weights in flight in each lane of few_rows. More would need more registers and leave fewer warps, whose loads
// are in flight as well.
constexpr int WEIGHT_LOADS = 4;

constexpr int KEEP_SUM = 1;    // write the residual stream back
constexpr int UNIT_LENGTH = 2; // divide the normalized row by its L2 norm

// x += y + y_bias, then out = layer_norm(x). `y` may be null. `row_indices` gives the row of x and y for each row of out;
// if it is null, they are the same.
template <class T>
__device__ void residual_norm(float *x, const T *y, const float *y_bias, const unsigned *row_indices, const float *weight,
                              const float *bias, T *out, int width, float eps, int flags) {
    int first = threadIdx.x * PER_THREAD;
    bool active = first < width;
    size_t source = row_indices ? row_indices[blockIdx.x] : blockIdx.x;
    float values[PER_THREAD];
    if (active) {
        load_values(x + source * width + first, values);
        if (y) {
            float added[PER_THREAD], b[PER_THREAD];
            load_values(y + source * width + first, added);
            load_values(y_bias + first, b);
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) values[i] += added[i] + b[i];
            if (flags & KEEP_SUM) store_values(x + source * width + first, values);
        }
    }
    layer_norm(values, active, width, eps, weight, bias);
    if (flags & UNIT_LENGTH) {
        float square = 0.0f;
        if (active) {
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) square += values[i] * values[i];
        }
        float length = fmaxf(sqrtf(block_sum(square)), 1e-12f);
        if (active) {
#pragma unroll
            for (int i = 0; i < PER_THREAD; i++) values[i] /= length;
        }
    }
    if (active) store_values(out + (size_t)blockIdx.x * width + first, values);
}

// Layer norm of rows in place: Magneto's norm of the concatenated heads.
template <class T> __device__ void norm_rows(T *rows, const float *weight, const float *bias, int width, float eps) {
    int first = threadIdx.x * PER_THREAD;
    bool active = first < width;
    T *row = rows + (size_t)blockIdx.x * width + first;
    float values[PER_THREAD];
    if (active) load_values(row, values);
    layer_norm(values, active, width, eps, weight, bias);
    if (active) store_values(row, values);
}

// inner = layer_norm(gelu(inner + inner_bias)) in place, with the exact gelu: Magneto's feed-forward block.
template <class T>
__device__ void gelu_norm(T *inner, const float *inner_bias, const float *weight, const float *bias, int width, float eps) {
    int first = threadIdx.x * PER_THREAD;
    bool active = first < width;
    T *row = inner + (size_t)blockIdx.x * width + first;
    float values[PER_THREAD];
    if (active) {
        float b[PER_THREAD];
        load_values(row, values);
        load_values(inner_bias + first, b);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            float value = values[i] + b[i];
            values[i] = 0.5f * value * (1.0f + erff(value * 0.70710678f));
        }
    }
    layer_norm(values, active, width, eps, weight, bias);
    if (active) store_values(row, values);
}

// inner = quick_gelu(inner + bias) in place, over `count` values: x · sigmoid(1.702 x).
template <class T> __device__ void quick_gelu(T *inner, const float *bias, int width, size_t count) {
    size_t first = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
    if (first >= count) return;
    float values[PER_THREAD], b[PER_THREAD];
    load_values(inner + first, values);
    load_values(bias + first % width, b);
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        float value = values[i] + b[i];
        values[i] = value / (1.0f + expf(-1.702f * value));
    }
    store_values(inner + first, values);
}

// The input of the decoder's first layer: the token's row of the table or a row of an image embedding, scaled, plus the
// position's row. `rows` holds token, position, slot and column. `image_rows` holds the address of a row of an image
// embedding or 0, and may be null.
template <class T>
__device__ void embed(const uint4 *rows, const unsigned long long *image_rows, const T *table, const float *positions,
                      float *x, int width, float scale) {
    int first = threadIdx.x * PER_THREAD;
    if (first >= width) return;
    uint4 row = rows[blockIdx.x];
    float values[PER_THREAD], position[PER_THREAD];
    const float *image_row = image_rows ? reinterpret_cast<const float *>(image_rows[blockIdx.x]) : nullptr;
    if (image_row) {
        load_values(image_row + first, values);
    } else {
        load_values(table + (size_t)row.x * width + first, values);
    }
    load_values(positions + (size_t)row.y * width + first, position);
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) values[i] = values[i] * scale + position[i];
    store_values(x + (size_t)blockIdx.x * width + first, values);
}

// Pixels [pictures, 3, size, size] to rows [pictures · patches, padded], patches row by row, the values of a patch by
// plane, row and column, followed by zeros.
template <class T> __device__ void cut_patches(const T *pixels, T *out, int size, int patch, int padded) {
    int across = size / patch, patches = across * across;
    int picture = blockIdx.x / patches, index = blockIdx.x % patches;
    int top = index / across * patch, left = index % across * patch;
    for (int at = threadIdx.x; at < padded; at += blockDim.x) {
        int plane = at / (patch * patch), y = top + at / patch % patch, x = left + at % patch;
        bool within = plane < 3;
        out[(size_t)blockIdx.x * padded + at] =
            within ? pixels[(((size_t)picture * 3 + plane) * size + y) * size + x] : narrow<T>(0.0f);
    }
}

// The residual stream of the vision tower: the class token's row and the rows `y` of the patches, plus their positions,
// through the first layer norm.
template <class T>
__device__ void vision_rows(const T *y, const float *class_row, const float *positions, const float *weight,
                            const float *bias, float *x, int rows, int width, float eps) {
    int first = threadIdx.x * PER_THREAD;
    bool active = first < width;
    int picture = blockIdx.x / rows, row = blockIdx.x % rows;
    float values[PER_THREAD];
    if (active) {
        float position[PER_THREAD];
        if (row == 0) {
            load_values(class_row + first, values);
        } else {
            load_values(y + ((size_t)picture * (rows - 1) + row - 1) * width + first, values);
        }
        load_values(positions + (size_t)row * width + first, position);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) values[i] += position[i];
    }
    layer_norm(values, active, width, eps, weight, bias);
    if (active) store_values(x + (size_t)blockIdx.x * width + first, values);
}

// For each picture, its `rows` rows of h + bias, then the latent queries.
template <class T>
__device__ void with_latent(const T *h, const float *bias, const T *latent, T *out, int rows, int latents, int width) {
    int first = threadIdx.x * PER_THREAD;
    if (first >= width) return;
    int picture = blockIdx.x / (rows + latents), row = blockIdx.x % (rows + latents);
    float values[PER_THREAD];
    if (row < rows) {
        float b[PER_THREAD];
        load_values(h + ((size_t)picture * rows + row) * width + first, values);
        load_values(bias + first, b);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) values[i] += b[i];
    } else {
        load_values(latent + (size_t)(row - rows) * width + first, values);
    }
    store_values(out + (size_t)blockIdx.x * width + first, values);
}

// y += bias over `count` values.
__device__ inline void add_bias(float *y, const float *bias, int width, size_t count) {
    size_t first = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * PER_THREAD;
    if (first >= count) return;
    float values[PER_THREAD], b[PER_THREAD];
    load_values(y + first, values);
    load_values(bias + first % width, b);
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) values[i] += b[i];
    store_values(y + first, values);
}

// y = x Wᵀ for a few rows of x: `warps_per_output` warps of a block compute one output. Every weight is read once, 16
// bytes per lane. W is [outputs, inner]; a block has FEW_WARPS warps.
//
// No kernel writes weights, so the first ones are loaded while the previous kernel still runs.
template <class T, class Out, int ROWS>
__device__ void few_rows(const T *weights, const T *x, Out *y, int inner, int outputs, int stride, int warps_per_output) {
    constexpr int LENGTH = Pack<T>::LENGTH, STEP = WARP * LENGTH;
    __shared__ float warp_sums[FEW_WARPS][ROWS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int output = blockIdx.x * (FEW_WARPS / warps_per_output) + warp / warps_per_output;
    int inputs_per_warp = (inner + warps_per_output * STEP - 1) / (warps_per_output * STEP) * STEP;
    int warp_start = warp % warps_per_output * inputs_per_warp;
    int first_input = warp_start + lane * LENGTH, end = min(warp_start + inputs_per_warp, inner);
    const T *row = weights + (size_t)min(output, outputs - 1) * inner;
    Pack<T> w[WEIGHT_LOADS];
    auto load = [&](int from) {
#pragma unroll
        for (int a = 0; a < WEIGHT_LOADS; a++) {
            if (from + a * STEP < end) w[a] = load_pack(row + from + a * STEP);
        }
    };
    allow_next_kernel();
    load(first_input);
    wait_for_previous_kernel();
    float sums[ROWS] = {};
    for (int from = first_input; from < end; from += WEIGHT_LOADS * STEP) {
        if (from > first_input) load(from);
#pragma unroll
        for (int a = 0; a < WEIGHT_LOADS; a++) {
            if (from + a * STEP >= end) break;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                Pack<T> v = load_pack(x + (size_t)r * inner + from + a * STEP);
#pragma unroll
                for (int i = 0; i < LENGTH; i++) sums[r] += widen(w[a].at[i]) * widen(v.at[i]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = warp_sum(sums[r]);
        if (lane == 0) warp_sums[warp][r] = sum;
    }
    __syncthreads();
    if (lane > 0 || warp % warps_per_output > 0 || output >= outputs) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = 0.0f;
        for (int i = 0; i < warps_per_output; i++) sum += warp_sums[warp + i][r];
        y[(size_t)r * stride + output] = narrow<Out>(sum);
    }
}
