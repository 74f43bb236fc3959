// Token selection from logits on the GPU: masked argmax, log-probability and corner estimate in one pass over a row of
// logits, one block per row.
#include "common.cuh"

constexpr int SELECT_THREADS = 512;
constexpr unsigned BEST = 0xffffffffu;      // a request's target: the best allowed token
constexpr unsigned EVERYTHING = 0xffffu;    // a request's set: no mask
constexpr unsigned NOTHING = 0xffffffffu;   // a choice's token: no allowed token has a finite logit
constexpr int CELL_BITS = TOKEN_CELL_BITS;  // these three are defined by token_mask.rs
constexpr unsigned PATCH = TOKEN_PATCH_KIND;
constexpr int SIDE = TOKEN_GRID_SIDE;
constexpr int REACH = 2;                    // cells on each side of the selected cell that the corner estimate uses

// Whether a row's mask allows a token: `set` has a bit for each allowed kind, and a patch token must not be to the left
// of or above the cell `upper_left`.
__device__ inline bool allows(unsigned code, unsigned set, unsigned upper_left) {
    unsigned kind = code >> CELL_BITS, cell = code & ((1u << CELL_BITS) - 1);
    bool in_reach = upper_left % SIDE <= cell % SIDE && upper_left / SIDE <= cell / SIDE;
    return (set >> kind & 1) && (kind != PATCH || in_reach);
}

struct Candidate {
    float value;
    unsigned token;
};

// The candidate with the larger value; of equal values, the one with the lower token.
__device__ inline Candidate better(Candidate a, Candidate b) {
    bool second = b.value > a.value || (b.value == a.value && b.token < a.token);
    return second ? b : a;
}

// A running log-sum-exp: the largest value, and the sum of exponentials relative to it.
struct LogSum {
    float largest, sum;
};

__device__ inline LogSum merge(LogSum a, LogSum b) {
    float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY) return {largest, a.sum + b.sum};
    return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

// Estimates a sub-cell corner: the mean position of the cells around the selected one, weighted by their softmax.
// Computed by one warp.
__device__ inline void corner(const float *scores, int count, int selected, float &column, float &row) {
    int lane = threadIdx.x % WARP, window = 2 * REACH + 1;
    int r = selected / SIDE - REACH + lane / window, c = selected % SIDE - REACH + lane % window;
    bool within = lane < window * window && r >= 0 && r < SIDE && c >= 0 && c < SIDE && r * SIDE + c < count;
    double weight = within ? exp((double)scores[r * SIDE + c] - (double)scores[selected]) : 0.0;
    double total = weight, x = weight * c, y = weight * r;
    if (!within) x = y = 0.0;
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        total += __shfl_xor_sync(ALL_LANES, total, offset);
        x += __shfl_xor_sync(ALL_LANES, x, offset);
        y += __shfl_xor_sync(ALL_LANES, y, offset);
    }
    bool finite = total > 0.0 && total < (double)INFINITY;
    column = finite ? (float)(x / total) : (float)(selected % SIDE);
    row = finite ? (float)(y / total) : (float)(selected / SIDE);
}

// `requests` holds for each row a target or BEST, the mask (set in the low half, upper left cell in the high half), and
// the first and the end of the patch tokens. `codes` is [vocabulary]. A result is the token, the bits of its
// log-probability under the unmasked row, and the bits of the column and row of a patch token's corner.
__device__ inline void select_token(const float *logits, int stride, int vocabulary, const uint4 *requests,
                              const unsigned short *codes, uint4 *results) {
    __shared__ Candidate candidates[WARP];
    __shared__ LogSum sums[WARP];
    const float *row = logits + (size_t)blockIdx.x * stride;
    uint4 request = requests[blockIdx.x];
    unsigned set = request.y & 0xffff, upper_left = request.y >> 16;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Candidate best = {-INFINITY, NOTHING};
    LogSum sum = {-INFINITY, 0.0f};
    for (int at = threadIdx.x * 4; at < vocabulary; at += blockDim.x * 4) {
        Pack<float> four = load_pack(row + at);
        int count = min(4, vocabulary - at);
        float largest = sum.largest;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i < count) largest = fmaxf(largest, four.at[i]);
        }
        // While all values are -inf the sum stays 0; exp(-inf - -inf) would be NaN.
        sum.sum = sum.largest == -INFINITY ? 0.0f : sum.sum * expf(sum.largest - largest);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i >= count) continue;
            float value = four.at[i];
            sum.sum += largest == -INFINITY && value == -INFINITY ? 0.0f : expf(value - largest);
            bool allowed = set == EVERYTHING || allows(codes[at + i], set, upper_left);
            if (allowed && value > best.value) best = {value, (unsigned)(at + i)};
        }
        sum.largest = largest;
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        Candidate other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.token, offset)};
        best = better(best, other);
        LogSum more = {__shfl_xor_sync(ALL_LANES, sum.largest, offset), __shfl_xor_sync(ALL_LANES, sum.sum, offset)};
        sum = merge(sum, more);
    }
    if (lane == 0) {
        candidates[warp] = best;
        sums[warp] = sum;
    }
    __syncthreads();
    if (warp > 0) return;
    int warps = blockDim.x / WARP;
    best = lane < warps ? candidates[lane] : Candidate{-INFINITY, NOTHING};
    sum = lane < warps ? sums[lane] : LogSum{-INFINITY, 0.0f};
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        Candidate other = {__shfl_xor_sync(ALL_LANES, best.value, offset), __shfl_xor_sync(ALL_LANES, best.token, offset)};
        best = better(best, other);
        LogSum more = {__shfl_xor_sync(ALL_LANES, sum.largest, offset), __shfl_xor_sync(ALL_LANES, sum.sum, offset)};
        sum = merge(sum, more);
    }
    unsigned token = request.x == BEST ? best.token : request.x;
    float logprob = token < (unsigned)vocabulary ? row[token] - (sum.largest + logf(sum.sum)) : NAN;
    float column = 0.0f, line = 0.0f;
    if (token >= request.z && token < request.w) {
        corner(row + request.z, (int)(request.w - request.z), (int)(token - request.z), column, line);
    }
    if (lane == 0) {
        results[blockIdx.x] = make_uint4(token, __float_as_uint(logprob), __float_as_uint(column), __float_as_uint(line));
    }
}
