// Shared by all kernels: the three number formats, loads of 16 bytes, sums over a block, layer norm of a row.
//
// Sums, norms and attention are computed in f32 in every format. The same source also compiles for the host, with host.h
// instead of CUDA's headers, so that its arithmetic and indexing can be checked without a GPU.
#pragma once

#ifdef KERNELS_ON_HOST
#include "host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

typedef __half f16;
typedef __nv_bfloat16 bf16;
typedef signed char int8;

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
// Values of a row that one thread handles in the kernels that process whole rows.
constexpr int PER_THREAD = 8;

// Kernels are launched while the previous one still runs (programmatic dependent launch). Before this call a kernel may
// not read what the previous one writes, and may not write anything. Every kernel calls it, so when it returns all
// earlier kernels have finished as well.
__device__ inline void wait_for_previous_kernel() {
#if !defined(KERNELS_ON_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Allows the next kernel to start.
__device__ inline void allow_next_kernel() {
#if !defined(KERNELS_ON_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ inline void begin_kernel() {
    allow_next_kernel();
    wait_for_previous_kernel();
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }
__device__ inline float widen(int8 x) { return (float)x; }

template <class T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <> __device__ inline bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// The values of one load or store of 16 bytes.
template <class T> struct alignas(16) Pack {
    static constexpr int LENGTH = 16 / sizeof(T);
    T at[LENGTH];
};

template <class T> __device__ inline Pack<T> load_pack(const T *from) { return *reinterpret_cast<const Pack<T> *>(from); }
template <class T> __device__ inline void store_pack(T *to, const Pack<T> &pack) { *reinterpret_cast<Pack<T> *>(to) = pack; }

// Loads the thread's values of a row and widens them to f32.
template <class T> __device__ inline void load_values(const T *from, float (&values)[PER_THREAD]) {
    constexpr int LENGTH = Pack<T>::LENGTH;
#pragma unroll
    for (int part = 0; part < PER_THREAD; part += LENGTH) {
        Pack<T> pack = load_pack(from + part);
#pragma unroll
        for (int i = 0; i < LENGTH; i++) values[part + i] = widen(pack.at[i]);
    }
}

template <class T> __device__ inline void store_values(T *to, const float (&values)[PER_THREAD]) {
    constexpr int LENGTH = Pack<T>::LENGTH;
#pragma unroll
    for (int part = 0; part < PER_THREAD; part += LENGTH) {
        Pack<T> pack;
#pragma unroll
        for (int i = 0; i < LENGTH; i++) pack.at[i] = narrow<T>(values[part + i]);
        store_pack(to + part, pack);
    }
}

// 2^x with an error of at most 2 units in the last place.
__device__ inline float exp2_approx(float x) {
#ifdef KERNELS_ON_HOST
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

__device__ inline float warp_sum(float value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    return value;
}

// The sum over all threads of a block, returned to every thread. A block is a whole number of warps.
__device__ inline float block_sum(float value) {
    __shared__ float partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads(); // threads may still be reading an earlier sum
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

// Layer norm of a row whose values are distributed over the threads of the block; threads beyond its end are inactive.
__device__ inline void layer_norm(float (&values)[PER_THREAD], bool active, int width, float eps, const float *weight,
                                  const float *bias) {
    float sum = 0.0f;
    if (active) {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) sum += values[i];
    }
    float mean = block_sum(sum) / width;
    // From the distances to the mean, not from the sum of squares, because the mean can be far from zero.
    float square = 0.0f;
    if (active) {
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) square += (values[i] - mean) * (values[i] - mean);
    }
    float scale = 1.0f / sqrtf(block_sum(square) / width + eps);
    if (active) {
        float w[PER_THREAD], b[PER_THREAD];
        load_values(weight + threadIdx.x * PER_THREAD, w);
        load_values(bias + threadIdx.x * PER_THREAD, b);
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) values[i] = (values[i] - mean) * scale * w[i] + b[i];
    }
}
