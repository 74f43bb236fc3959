// The kernels as a library for the host, launched by name.
#include "../../src/cuda/kernels.cu"

#include <map>
#include <string>
#include <utility>

namespace {

typedef std::function<void(const uint64_t *)> Call;

template <class A> A argument(uint64_t word) {
    A value;
    memcpy(&value, &word, sizeof(A));
    return value;
}

template <class... A, size_t... I> Call unpacking(void (*kernel)(A...), std::index_sequence<I...>) {
    return [kernel](const uint64_t *words) { kernel(argument<A>(words[I])...); };
}
template <class... A> Call call(void (*kernel)(A...)) { return unpacking(kernel, std::index_sequence_for<A...>()); }

#define ENTRY(NAME) {#NAME, call(NAME)}
#define CACHE_ENTRIES(F, D) ENTRY(attend_newest_##F##_##D), ENTRY(append_##F##_##D), ENTRY(copy_columns_##F##_##D)
#define HEAD_ENTRIES(F, D) CACHE_ENTRIES(F, D), ENTRY(attend_rows_##F##_##D)
#define TILE_ENTRIES(F) ENTRY(attend_tiles_##F##_16), ENTRY(attend_tiles_##F##_32), ENTRY(attend_tiles_##F##_64)
#define ENTRIES(F)                                                                                                       \
    ENTRY(residual_norm_##F), ENTRY(norm_rows_##F), ENTRY(gelu_norm_##F), ENTRY(quick_gelu_##F), ENTRY(embed_##F),       \
        ENTRY(cut_patches_##F), ENTRY(vision_rows_##F), ENTRY(with_latent_##F), ENTRY(merge_norm_##F),                   \
        ENTRY(few_rows_##F##_own_1), ENTRY(few_rows_##F##_own_2), HEAD_ENTRIES(F, 16), HEAD_ENTRIES(F, 32),              \
        HEAD_ENTRIES(F, 64)
#define HALF_ENTRIES(F)                                                                                                  \
    ENTRIES(F), ENTRY(few_rows_##F##_wide_1), ENTRY(few_rows_##F##_wide_2), TILE_ENTRIES(F), TILE_ENTRIES(F##_int8),     \
        CACHE_ENTRIES(F##_int8, 16), CACHE_ENTRIES(F##_int8, 32), CACHE_ENTRIES(F##_int8, 64)

const std::map<std::string, Call> KERNELS = {ENTRIES(f32), HALF_ENTRIES(f16), HALF_ENTRIES(bf16), ENTRY(add_bias_f32), ENTRY(select_tokens)};

} // namespace

extern "C" int kernels_on_host_launch(const char *name, const uint32_t *grid, uint32_t threads, const uint64_t *words) {
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) return 0;
    host::launch({grid[0], grid[1], grid[2]}, threads, [&] { found->second(words); });
    return 1;
}
