// What all kernels share: the three number formats, loads of 16 bytes, sums over a block, layer norm of a row.
//
// Sums, norms and attention are computed in f32 whatever the format. The same source also compiles for the host, with
// host.h in place of CUDA's headers, so that its arithmetic and indexing can be checked without a device.
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
// Values of a row that one thread owns in the kernels that go over whole rows.
constexpr int OWN = 8;

// Kernels are launched while the one before them still runs, to be there when it is done. Before this nothing may be read
// that it writes and nothing written at all; every kernel comes by here, so all before it are done as well.
__device__ inline void wait_for_the_one_before() {
#if !defined(KERNELS_ON_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel come.
__device__ inline void let_the_next_come() {
#if !defined(KERNELS_ON_HOST) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ inline void begin() {
    let_the_next_come();
    wait_for_the_one_before();
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(f16 x) { return __half2float(x); }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }
__device__ inline float widen(int8 x) { return (float)x; }

template <class T> __device__ inline T narrow(float x);
template <> __device__ inline float narrow<float>(float x) { return x; }
template <> __device__ inline f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <> __device__ inline bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// What one load or store of 16 bytes holds.
template <class T> struct alignas(16) Pack {
    static constexpr int LENGTH = 16 / sizeof(T);
    T at[LENGTH];
};

template <class T> __device__ inline Pack<T> load_pack(const T *from) { return *reinterpret_cast<const Pack<T> *>(from); }
template <class T> __device__ inline void store_pack(T *to, const Pack<T> &pack) { *reinterpret_cast<Pack<T> *>(to) = pack; }

// The thread's OWN values of a row, widened.
template <class T> __device__ inline void load_own(const T *from, float (&own)[OWN]) {
    constexpr int LENGTH = Pack<T>::LENGTH;
#pragma unroll
    for (int part = 0; part < OWN; part += LENGTH) {
        Pack<T> pack = load_pack(from + part);
#pragma unroll
        for (int i = 0; i < LENGTH; i++) own[part + i] = widen(pack.at[i]);
    }
}

template <class T> __device__ inline void store_own(T *to, const float (&own)[OWN]) {
    constexpr int LENGTH = Pack<T>::LENGTH;
#pragma unroll
    for (int part = 0; part < OWN; part += LENGTH) {
        Pack<T> pack;
#pragma unroll
        for (int i = 0; i < LENGTH; i++) pack.at[i] = narrow<T>(own[part + i]);
        store_pack(to + part, pack);
    }
}

// 2 to the x, good to 2 units in the last place.
__device__ inline float power_of_two(float x) {
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

// The sum over all threads of a block, in every thread. Blocks are whole warps.
__device__ inline float block_sum(float value) {
    __shared__ float partial[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    value = warp_sum(value);
    __syncthreads(); // an earlier sum may still be read
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    return warp_sum(lane < warps ? partial[lane] : 0.0f);
}

// Layer norm of a row whose values the block's threads own; threads beyond the row own nothing.
__device__ inline void normalize(float (&own)[OWN], bool owns, int width, float eps, const float *weight, const float *bias) {
    float sum = 0.0f;
    if (owns) {
#pragma unroll
        for (int i = 0; i < OWN; i++) sum += own[i];
    }
    float mean = block_sum(sum) / width;
    // From the distances to the mean, not from the squares' sum: rows can lie far from zero.
    float square = 0.0f;
    if (owns) {
#pragma unroll
        for (int i = 0; i < OWN; i++) square += (own[i] - mean) * (own[i] - mean);
    }
    float scale = 1.0f / sqrtf(block_sum(square) / width + eps);
    if (owns) {
        float w[OWN], b[OWN];
        load_own(weight + threadIdx.x * OWN, w);
        load_own(bias + threadIdx.x * OWN, b);
#pragma unroll
        for (int i = 0; i < OWN; i++) own[i] = (own[i] - mean) * scale * w[i] + b[i];
    }
}
