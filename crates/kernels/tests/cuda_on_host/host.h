// The parts of CUDA that the kernels use, for the host. The threads of a block are fibers that switch at barriers and at
// exchanges within a warp. Each fiber runs until it has to wait, so a missing barrier shows as a wrong result, and a
// deadlock is reported as an error.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__
#define __shared__ static
#define __launch_bounds__(...)

using std::min;

struct uint3_ {
    unsigned x, y, z;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline uint3_ threadIdx, blockIdx, blockDim, gridDim;

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return as_float((unsigned)x.bits << 16); }

// Rounds to nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __float_as_uint(x);
    if (std::isnan(x)) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
    float sign = x.bits >> 15 ? -1.0f : 1.0f;
    int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}

inline __half __float2half_rn(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return {0x7fff};
    double size = std::fabs((double)x);
    int exponent = size >= std::ldexp(1.0, -14) ? std::ilogb(size) : -14;
    double steps = std::nearbyint(std::ldexp(size, 10 - exponent)); // rounds ties to even by default
    double rounded = std::ldexp(steps, exponent - 10);
    if (rounded >= 65536.0) return {(uint16_t)(sign | 0x7c00)};
    if (rounded < std::ldexp(1.0, -14)) return {(uint16_t)(sign | (uint16_t)std::ldexp(rounded, 24))};
    exponent = std::ilogb(rounded);
    return {(uint16_t)(sign | (exponent + 15) << 10 | ((int)std::ldexp(rounded, 10 - exponent) & 1023))};
}

namespace host {

// All threads that have not finished must arrive before any of them continues.
struct Barrier {
    int members = 0, arrived = 0, round = 0;
    void open_if_complete() {
        if (members > 0 && arrived == members) arrived = 0, round++;
    }
};

struct Exchange {
    Barrier barrier;
    alignas(16) unsigned char values[2][32][32]; // [slot][lane][byte]
};

struct Fiber {
    ucontext_t entry;
    jmp_buf resume_point; // where it waits, once it has begun
    bool begun = false;
    std::unique_ptr<char[]> stack;
    uint3_ index;
    int slot = 0; // which of the two slots the lane's next exchange uses
    bool finished = false;
};

inline std::vector<Fiber> fibers;
inline std::vector<Exchange> warps;
inline Barrier block;
inline jmp_buf scheduler;
inline size_t running;
inline bool progressed;
inline const std::function<void()> *body;

// Contexts are only used to start fibers: switching by them would cost two system calls each time.
__attribute__((noinline)) inline void to_scheduler() {
    if (_setjmp(fibers[running].resume_point) == 0) _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void to_fiber() {
    if (_setjmp(scheduler) != 0) return;
    Fiber &fiber = fibers[running];
    if (fiber.begun) _longjmp(fiber.resume_point, 1);
    fiber.begun = true;
    setcontext(&fiber.entry);
}

inline void wait(Barrier &barrier) {
    int round = barrier.round;
    barrier.arrived++;
    barrier.open_if_complete();
    progressed = true;
    while (barrier.round == round) to_scheduler();
}

inline Exchange &warp() { return warps[running / 32]; }

// Publishes the lane's value, waits for the other lanes, and passes a function that returns a lane's value to `read`.
template <class T, class Read> auto exchange(const T &value, Read read) {
    static_assert(sizeof(T) <= 32, "");
    Exchange &own = warp();
    Fiber &fiber = fibers[running];
    auto &values = own.values[fiber.slot];
    fiber.slot ^= 1;
    memcpy(values[running % 32], &value, sizeof(T));
    wait(own.barrier);
    return read([&](int lane) {
        T other;
        memcpy(&other, values[lane], sizeof(T));
        return other;
    });
}

inline void start() {
    (*body)();
    fibers[running].finished = true;
    progressed = true;
    for (Barrier *barrier : {&block, &warp().barrier}) {
        barrier->members--;
        barrier->open_if_complete();
    }
    to_scheduler();
}

inline void run_block(int threads, const std::function<void()> &work) {
    constexpr size_t STACK = 64 << 10;
    fibers.resize(threads);
    warps.assign((threads + 31) / 32, Exchange());
    block = Barrier();
    block.members = threads;
    body = &work;
    for (int at = 0; at < threads; at++) {
        Fiber &fiber = fibers[at];
        fiber.index = {(unsigned)at, 0, 0};
        fiber.slot = 0;
        fiber.finished = fiber.begun = false;
        warps[at / 32].barrier.members++;
        if (!fiber.stack) fiber.stack.reset(new char[STACK]);
        getcontext(&fiber.entry);
        fiber.entry.uc_stack.ss_sp = fiber.stack.get();
        fiber.entry.uc_stack.ss_size = STACK;
        makecontext(&fiber.entry, start, 0);
    }
    for (bool unfinished = true; unfinished;) {
        unfinished = progressed = false;
        for (running = 0; running < fibers.size(); running++) {
            if (fibers[running].finished) continue;
            unfinished = true;
            threadIdx = fibers[running].index;
            to_fiber();
        }
        if (unfinished && !progressed) {
            fprintf(stderr, "deadlock: all remaining threads of the block are waiting\n");
            exit(2);
        }
    }
}

// Launches a kernel; `work` calls it.
inline void launch(uint3_ grid, int threads, const std::function<void()> &work) {
    gridDim = grid;
    blockDim = {(unsigned)threads, 1, 1};
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                run_block(threads, work);
            }
}

} // namespace host

inline void __syncthreads() { host::wait(host::block); }

template <class T> T __shfl_xor_sync(unsigned, T value, int offset) {
    int lane = host::running % 32;
    return host::exchange(value, [&](auto of) { return of(lane ^ offset); });
}

// Asynchronous copies to shared memory complete immediately.
template <class T> void copy_async(T *to, const T *from, bool in_range) {
    for (size_t i = 0; i < 16 / sizeof(T); i++) to[i] = in_range ? from[i] : T{};
}
inline void commit_copies() {}
template <int GROUPS> void wait_for_copies() {}

// The operations of the tensor cores, with the layouts that the PTX manual specifies for mma.m16n8k16 and ldmatrix.

template <class T> T part(unsigned both, int which) {
    T value;
    uint16_t bits = which ? both >> 16 : both & 0xffff;
    memcpy(&value, &bits, 2);
    return value;
}
inline float to_float(__half x) { return __half2float(x); }
inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, T) {
    struct Operands {
        unsigned a[4], b[2];
    } own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    int lane = host::running % 32;
    host::exchange(own, [&](auto of) {
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = c[i];
            for (int k = 0; k < 16; k++) {
                Operands left = of(row % 8 * 4 + k % 8 / 2), right = of(column * 4 + k % 8 / 2);
                float x = to_float(part<T>(left.a[row / 8 + k / 8 * 2], k % 2)), y = to_float(part<T>(right.b[k / 8], k % 2));
                sum += (double)x * y;
            }
            c[i] = (float)sum;
        }
        return 0;
    });
}

template <class T> void ldmatrix(unsigned (&to)[4], const T *row) {
    int lane = host::running % 32;
    host::exchange(row, [&](auto of) {
        for (int i = 0; i < 4; i++) memcpy(&to[i], of(i * 8 + lane / 4) + lane % 4 * 2, 4);
        return 0;
    });
}

template <class T> void ldmatrix_transposed(unsigned (&to)[4], const T *row) {
    int lane = host::running % 32;
    host::exchange(row, [&](auto of) {
        for (int i = 0; i < 4; i++) {
            T both[2] = {of(i * 8 + lane % 4 * 2)[lane / 4], of(i * 8 + lane % 4 * 2 + 1)[lane / 4]};
            memcpy(&to[i], both, 4);
        }
        return 0;
    });
}
