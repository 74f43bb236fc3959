// From logits to tokens without the host: one pass over a row's vocabulary, a block a row.
#include "common.cuh"

constexpr int CHOOSE_THREADS = 512;
constexpr unsigned BEST = 0xffffffffu;      // a want's target: the best allowed token
constexpr unsigned EVERYTHING = 0xffffu;    // a want's set: no mask
constexpr unsigned NOTHING = 0xffffffffu;   // a choice's token: no allowed token has a finite logit
constexpr int CELL_BITS = TOKEN_CELL_BITS;  // these three are defined by token_mask.rs
constexpr unsigned PATCH = TOKEN_PATCH_KIND;
constexpr int SIDE = TOKEN_GRID_SIDE;
constexpr int REACH = 2;                    // cells around a chosen corner that its estimate looks at

// What stands for a token under a row's mask: `set` has a bit for each kind that may come, and a patch must not lie to
// the left of or above the cell `upper_left`.
__device__ inline bool allows(unsigned code, unsigned set, unsigned upper_left) {
    unsigned kind = code >> CELL_BITS, cell = code & ((1u << CELL_BITS) - 1);
    bool reaches = upper_left % SIDE <= cell % SIDE && upper_left / SIDE <= cell / SIDE;
    return (set >> kind & 1) && (kind != PATCH || reaches);
}

struct Best {
    float value;
    unsigned token;
};

// The greater; of equals, the lower token.
__device__ inline Best better(Best a, Best b) {
    bool second = b.value > a.value || (b.value == a.value && b.token < a.token);
    return second ? b : a;
}

// ln of a sum of exponentials under way.
struct LogSum {
    float most, sum;
};

__device__ inline LogSum join(LogSum a, LogSum b) {
    float most = fmaxf(a.most, b.most);
    if (most == -INFINITY) return {most, a.sum + b.sum};
    return {most, a.sum * expf(a.most - most) + b.sum * expf(b.most - most)};
}

// Where a corner lies between the cells: the mean of those around the chosen one by their softmax. One warp.
__device__ inline void corner(const float *scores, int count, int chosen, float &column, float &row) {
    int lane = threadIdx.x % WARP, window = 2 * REACH + 1;
    int r = chosen / SIDE - REACH + lane / window, c = chosen % SIDE - REACH + lane % window;
    bool within = lane < window * window && r >= 0 && r < SIDE && c >= 0 && c < SIDE && r * SIDE + c < count;
    double weight = within ? exp((double)scores[r * SIDE + c] - (double)scores[chosen]) : 0.0;
    double total = weight, x = weight * c, y = weight * r;
    if (!within) x = y = 0.0;
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        total += __shfl_xor_sync(ALL_LANES, total, offset);
        x += __shfl_xor_sync(ALL_LANES, x, offset);
        y += __shfl_xor_sync(ALL_LANES, y, offset);
    }
    bool finite = total > 0.0 && total < (double)INFINITY;
    column = finite ? (float)(x / total) : (float)(chosen % SIDE);
    row = finite ? (float)(y / total) : (float)(chosen / SIDE);
}

// `wants` holds for each row a target or BEST, the mask (set in the low half, upper left cell in the high), and the
// patch tokens' first and end. `codes` [vocabulary]. A choice is the token, the bits of its log-probability under the
// whole row, and of a patch's column and row.
__device__ inline void choose(const float *logits, int stride, int vocabulary, const uint4 *wants,
                              const unsigned short *codes, uint4 *choices) {
    __shared__ Best bests[WARP];
    __shared__ LogSum sums[WARP];
    const float *row = logits + (size_t)blockIdx.x * stride;
    uint4 want = wants[blockIdx.x];
    unsigned set = want.y & 0xffff, upper_left = want.y >> 16;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Best best = {-INFINITY, NOTHING};
    LogSum sum = {-INFINITY, 0.0f};
    for (int at = threadIdx.x * 4; at < vocabulary; at += blockDim.x * 4) {
        Pack<float> four = load_pack(row + at);
        int count = min(4, vocabulary - at);
        float most = sum.most;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < count) most = fmaxf(most, four.at[i]);
        }
        // With no number above -inf yet, exp(-inf - -inf) is no number, and neither is the sum: as it should be.
        sum.sum = sum.most == -INFINITY ? 0.0f : sum.sum * expf(sum.most - most);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i >= count) continue;
            float value = four.at[i];
            sum.sum += most == -INFINITY && value == -INFINITY ? 0.0f : expf(value - most);
            bool may = set == EVERYTHING || allows(codes[at + i], set, upper_left);
            if (may && value > best.value) best = {value, (unsigned)(at + i)};
        }
        sum.most = most;
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        Best other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.token, offset)};
        best = better(best, other);
        LogSum more = {__shfl_xor_sync(ALL_LANES, sum.most, offset), __shfl_xor_sync(ALL_LANES, sum.sum, offset)};
        sum = join(sum, more);
    }
    if (lane == 0) {
        bests[warp] = best;
        sums[warp] = sum;
    }
    __syncthreads();
    if (warp > 0) return;
    int warps = blockDim.x / WARP;
    best = lane < warps ? bests[lane] : Best{-INFINITY, NOTHING};
    sum = lane < warps ? sums[lane] : LogSum{-INFINITY, 0.0f};
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        Best other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.token, offset)};
        best = better(best, other);
        LogSum more = {__shfl_xor_sync(ALL_LANES, sum.most, offset), __shfl_xor_sync(ALL_LANES, sum.sum, offset)};
        sum = join(sum, more);
    }
    unsigned token = want.x == BEST ? best.token : want.x;
    float logprob = token < (unsigned)vocabulary ? row[token] - (sum.most + logf(sum.sum)) : NAN, column = 0.0f, line = 0.0f;
    if (token >= want.z && token < want.w) {
        corner(row + want.z, (int)(want.w - want.z), (int)(token - want.z), column, line);
    }
    if (lane == 0) {
        choices[blockIdx.x] = make_uint4(token, __float_as_uint(logprob), __float_as_uint(column), __float_as_uint(line));
    }
}
