// Kernels that go over whole rows: a block a row, a thread OWN neighbouring values.
#include "common.cuh"

constexpr int FEW_WARPS = 8;
// Loads of weights under way in each lane of few_rows. More take registers from other warps, whose loads count as well.
constexpr int WEIGHTS_AHEAD = 4;

constexpr int KEEP_SUM = 1;    // write the residual stream back
constexpr int UNIT_LENGTH = 2; // divide the normed row by its length

// x += y + y_bias, then out = layer norm of x. `y` may be absent. `picks` names the row of x and y for each row of out.
template <class T>
__device__ void residual_norm(float *x, const T *y, const float *y_bias, const unsigned *picks, const float *weight,
                              const float *bias, T *out, int width, float eps, int flags) {
    int first = threadIdx.x * OWN;
    bool owns = first < width;
    size_t source = picks ? picks[blockIdx.x] : blockIdx.x;
    float own[OWN];
    if (owns) {
        load_own(x + source * width + first, own);
        if (y) {
            float added[OWN], b[OWN];
            load_own(y + source * width + first, added);
            load_own(y_bias + first, b);
#pragma unroll
            for (int i = 0; i < OWN; i++) own[i] += added[i] + b[i];
            if (flags & KEEP_SUM) store_own(x + source * width + first, own);
        }
    }
    normalize(own, owns, width, eps, weight, bias);
    if (flags & UNIT_LENGTH) {
        float square = 0.0f;
        if (owns) {
#pragma unroll
            for (int i = 0; i < OWN; i++) square += own[i] * own[i];
        }
        float length = fmaxf(sqrtf(block_sum(square)), 1e-12f);
        if (owns) {
#pragma unroll
            for (int i = 0; i < OWN; i++) own[i] /= length;
        }
    }
    if (owns) store_own(out + (size_t)blockIdx.x * width + first, own);
}

// Layer norm of rows in place: Magneto's on the joined heads.
template <class T> __device__ void norm_rows(T *rows, const float *weight, const float *bias, int width, float eps) {
    int first = threadIdx.x * OWN;
    bool owns = first < width;
    T *row = rows + (size_t)blockIdx.x * width + first;
    float own[OWN];
    if (owns) load_own(row, own);
    normalize(own, owns, width, eps, weight, bias);
    if (owns) store_own(row, own);
}

// inner = layer norm of gelu(inner + inner_bias), the exact gelu, in place: Magneto's feed-forward block.
template <class T>
__device__ void gelu_norm(T *inner, const float *inner_bias, const float *weight, const float *bias, int width, float eps) {
    int first = threadIdx.x * OWN;
    bool owns = first < width;
    T *row = inner + (size_t)blockIdx.x * width + first;
    float own[OWN];
    if (owns) {
        float b[OWN];
        load_own(row, own);
        load_own(inner_bias + first, b);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            float value = own[i] + b[i];
            own[i] = 0.5f * value * (1.0f + erff(value * 0.70710678f));
        }
    }
    normalize(own, owns, width, eps, weight, bias);
    if (owns) store_own(row, own);
}

// inner = quick gelu of (inner + bias), in place, over `count` values: x · sigmoid(1.702 x).
template <class T> __device__ void quick_gelu(T *inner, const float *bias, int width, size_t count) {
    size_t first = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * OWN;
    if (first >= count) return;
    float own[OWN], b[OWN];
    load_own(inner + first, own);
    load_own(bias + first % width, b);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        float value = own[i] + b[i];
        own[i] = value / (1.0f + expf(-1.702f * value));
    }
    store_own(inner + first, own);
}

// What the decoder's first layer takes: the token's row of the table or the picture's row, scaled, plus the position's.
// `rows` holds token, position, slot and column; `pictures` the address of a picture's row or 0, and may be absent.
template <class T>
__device__ void embed(const uint4 *rows, const unsigned long long *pictures, const T *table, const float *positions,
                      float *x, int width, float scale) {
    int first = threadIdx.x * OWN;
    if (first >= width) return;
    uint4 row = rows[blockIdx.x];
    float own[OWN], place[OWN];
    const float *picture = pictures ? reinterpret_cast<const float *>(pictures[blockIdx.x]) : nullptr;
    if (picture) {
        load_own(picture + first, own);
    } else {
        load_own(table + (size_t)row.x * width + first, own);
    }
    load_own(positions + (size_t)row.y * width + first, place);
#pragma unroll
    for (int i = 0; i < OWN; i++) own[i] = own[i] * scale + place[i];
    store_own(x + (size_t)blockIdx.x * width + first, own);
}

// Pixels [pictures, 3, size, size] to rows [pictures · patches, padded], patches row by row, a patch's values by plane,
// row and column; zero behind them.
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

// The class token's row and the patches' rows `y`, with their positions, through the first layer norm: the residual
// stream of the vision tower.
template <class T>
__device__ void vision_rows(const T *y, const float *class_row, const float *positions, const float *weight,
                            const float *bias, float *x, int rows, int width, float eps) {
    int first = threadIdx.x * OWN;
    bool owns = first < width;
    int picture = blockIdx.x / rows, row = blockIdx.x % rows;
    float own[OWN];
    if (owns) {
        float place[OWN];
        if (row == 0) {
            load_own(class_row + first, own);
        } else {
            load_own(y + ((size_t)picture * (rows - 1) + row - 1) * width + first, own);
        }
        load_own(positions + (size_t)row * width + first, place);
#pragma unroll
        for (int i = 0; i < OWN; i++) own[i] += place[i];
    }
    normalize(own, owns, width, eps, weight, bias);
    if (owns) store_own(x + (size_t)blockIdx.x * width + first, own);
}

// For each picture its `rows` of h + bias, then the latent queries.
template <class T>
__device__ void with_latent(const T *h, const float *bias, const T *latent, T *out, int rows, int latents, int width) {
    int first = threadIdx.x * OWN;
    if (first >= width) return;
    int picture = blockIdx.x / (rows + latents), row = blockIdx.x % (rows + latents);
    float own[OWN];
    if (row < rows) {
        float b[OWN];
        load_own(h + ((size_t)picture * rows + row) * width + first, own);
        load_own(bias + first, b);
#pragma unroll
        for (int i = 0; i < OWN; i++) own[i] += b[i];
    } else {
        load_own(latent + (size_t)(row - rows) * width + first, own);
    }
    store_own(out + (size_t)blockIdx.x * width + first, own);
}

// y += bias over `count` values.
__device__ inline void add_bias(float *y, const float *bias, int width, size_t count) {
    size_t first = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * OWN;
    if (first >= count) return;
    float own[OWN], b[OWN];
    load_own(y + first, own);
    load_own(bias + first % width, b);
#pragma unroll
    for (int i = 0; i < OWN; i++) own[i] += b[i];
    store_own(y + first, own);
}

// y = x Wᵀ for a few rows of x: `parts` warps of a block an output, every weight read once, 16 bytes a lane.
// W [outputs, inner]; a block of FEW_WARPS warps.
//
// Weights depend on no kernel: the first are asked for while the one before still runs.
template <class T, class Out, int ROWS>
__device__ void few_rows(const T *weights, const T *x, Out *y, int inner, int outputs, int stride, int parts) {
    constexpr int LENGTH = Pack<T>::LENGTH, STEP = WARP * LENGTH;
    __shared__ float sums_of_parts[FEW_WARPS][ROWS];
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int output = blockIdx.x * (FEW_WARPS / parts) + warp / parts;
    int share = (inner + parts * STEP - 1) / (parts * STEP) * STEP;
    int begin = warp % parts * share + lane * LENGTH, end = min(warp % parts * share + share, inner);
    const T *row = weights + (size_t)min(output, outputs - 1) * inner;
    Pack<T> w[WEIGHTS_AHEAD];
    auto load = [&](int from) {
#pragma unroll
        for (int a = 0; a < WEIGHTS_AHEAD; a++) {
            if (from + a * STEP < end) w[a] = load_pack(row + from + a * STEP);
        }
    };
    let_the_next_come();
    load(begin);
    wait_for_the_one_before();
    float sums[ROWS] = {};
    for (int from = begin; from < end; from += WEIGHTS_AHEAD * STEP) {
        if (from > begin) load(from);
#pragma unroll
        for (int a = 0; a < WEIGHTS_AHEAD; a++) {
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
        if (lane == 0) sums_of_parts[warp][r] = sum;
    }
    __syncthreads();
    if (lane > 0 || warp % parts > 0 || output >= outputs) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = 0.0f;
        for (int part = 0; part < parts; part++) sum += sums_of_parts[warp + part][r];
        y[(size_t)r * stride + output] = narrow<Out>(sum);
    }
}
