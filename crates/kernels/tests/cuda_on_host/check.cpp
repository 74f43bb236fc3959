// The CUDA kernels on the host, compared with plain loops in f64 on random data.
#include "../../src/cuda/kernels.cu"

#include <random>

using host::launch;
typedef std::vector<double> Reals;

static std::mt19937 source(7);
static int failures = 0;

template <class T> struct Name;
template <> struct Name<float> { static constexpr const char *text = "f32"; static constexpr double bound = 1e-6; };
template <> struct Name<f16> { static constexpr const char *text = "f16"; static constexpr double bound = 5e-4; };
template <> struct Name<bf16> { static constexpr const char *text = "bf16"; static constexpr double bound = 4e-3; };

template <class T> std::vector<T> random_values(size_t count, double reach = 1.0, double mean = 0.0) {
    std::normal_distribution<double> draw(mean, reach);
    std::vector<T> values(count);
    for (T &value : values) value = narrow<T>((float)draw(source));
    return values;
}

template <class T> Reals reals(const std::vector<T> &values) {
    Reals wide(values.size());
    for (size_t i = 0; i < values.size(); i++) wide[i] = widen(values[i]);
    return wide;
}

// Poisoned output: values that a kernel does not write are NaN.
template <class T> std::vector<T> unwritten(size_t count) { return std::vector<T>(count, narrow<T>(NAN)); }

static void report(const char *kernel, const char *format, const std::string &shape, double error, double bound) {
    bool right = error <= bound;
    failures += !right;
    printf("%-16s %-5s %-28s %9.2e  %s\n", kernel, format, shape.c_str(), error, right ? "right" : "WRONG");
}

static double distance(const Reals &found, const Reals &expected) {
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < expected.size(); i++) {
        error += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return std::sqrt(error / size);
}

template <class T>
static void compare(const char *kernel, const std::string &shape, const std::vector<T> &found, const Reals &expected) {
    report(kernel, Name<T>::text, shape, found.size() == expected.size() ? distance(reals(found), expected) : NAN, Name<T>::bound);
}

static std::string shape_of(std::initializer_list<long> sizes) {
    std::string text;
    for (long size : sizes) text += (text.empty() ? "" : " x ") + std::to_string(size);
    return text;
}

static void plain_norm(double *row, int width, const std::vector<float> &weight, const std::vector<float> &bias, double eps) {
    double mean = 0.0, square = 0.0;
    for (int i = 0; i < width; i++) mean += row[i] / width;
    for (int i = 0; i < width; i++) square += (row[i] - mean) * (row[i] - mean) / width;
    for (int i = 0; i < width; i++) row[i] = (row[i] - mean) / std::sqrt(square + eps) * weight[i] + bias[i];
}

static int threads_of(int width) { return (width / PER_THREAD + WARP - 1) / WARP * WARP; }

template <class T> static void check_rows(int rows, int width) {
    const double eps = 1e-5;
    auto weight = random_values<float>(width, 0.3, 1.0), bias = random_values<float>(width, 0.2);
    auto y_bias = random_values<float>(width, 0.1);
    auto x = random_values<float>(rows * width, 1.0, 3.0);
    auto y = random_values<T>(rows * width);
    Reals expected(rows * width), sums(rows * width);
    for (int i = 0; i < rows * width; i++) sums[i] = expected[i] = (double)x[i] + widen(y[i]) + y_bias[i % width];
    for (int r = 0; r < rows; r++) plain_norm(&expected[r * width], width, weight, bias, eps);

    auto out = unwritten<T>(rows * width);
    auto stream = x;
    launch({(unsigned)rows, 1, 1}, threads_of(width), [&] {
        residual_norm<T>(stream.data(), y.data(), y_bias.data(), nullptr, weight.data(), bias.data(), out.data(), width, eps, KEEP_SUM);
    });
    compare("residual_norm", shape_of({rows, width}), out, expected);
    report("  its sum", "f32", shape_of({rows, width}), distance(reals(stream), sums), 1e-6);

    // Rows selected in reverse order, scaled to unit length, with the stream left unchanged.
    std::vector<unsigned> row_indices;
    Reals selected;
    for (int r = rows; r-- > 0;) {
        row_indices.push_back(r);
        double square = 0.0;
        for (int i = 0; i < width; i++) square += expected[r * width + i] * expected[r * width + i];
        for (int i = 0; i < width; i++) selected.push_back(expected[r * width + i] / std::sqrt(square));
    }
    stream = x;
    out = unwritten<T>(rows * width);
    launch({(unsigned)rows, 1, 1}, threads_of(width), [&] {
        residual_norm<T>(stream.data(), y.data(), y_bias.data(), row_indices.data(), weight.data(), bias.data(), out.data(), width, eps, UNIT_LENGTH);
    });
    compare("  selected, unit", shape_of({rows, width}), out, selected);
    report("  unchanged", "f32", shape_of({rows, width}), stream == x ? 0.0 : 1.0, 0.0);

    auto own = random_values<T>(rows * width, 2.0);
    Reals plain = reals(own), gelu = plain, quick = plain;
    for (int i = 0; i < rows * width; i++) {
        double value = plain[i] + y_bias[i % width];
        gelu[i] = 0.5 * value * (1.0 + std::erf(value * M_SQRT1_2));
        quick[i] = value / (1.0 + std::exp(-1.702 * value));
    }
    for (int r = 0; r < rows; r++) {
        plain_norm(&plain[r * width], width, weight, bias, eps);
        plain_norm(&gelu[r * width], width, weight, bias, eps);
    }
    auto found = own;
    launch({(unsigned)rows, 1, 1}, threads_of(width), [&] { norm_rows<T>(found.data(), weight.data(), bias.data(), width, eps); });
    compare("norm_rows", shape_of({rows, width}), found, plain);
    found = own;
    launch({(unsigned)rows, 1, 1}, threads_of(width), [&] { gelu_norm<T>(found.data(), y_bias.data(), weight.data(), bias.data(), width, eps); });
    compare("gelu_norm", shape_of({rows, width}), found, gelu);
    found = own;
    size_t count = found.size();
    launch({(unsigned)((count / PER_THREAD + 255) / 256), 1, 1}, 256, [&] { quick_gelu<T>(found.data(), y_bias.data(), width, count); });
    compare("quick_gelu", shape_of({rows, width}), found, quick);
}

template <class T> static void check_embed(int width) {
    const int vocabulary = 50, position_count = 20, rows = 5;
    auto table = random_values<T>(vocabulary * width);
    auto positions = random_values<float>(position_count * width), image = random_values<float>(2 * width);
    std::vector<uint4> meta = {{3, 2, 0, 0}, {49, 19, 0, 1}, {0, 5, 1, 0}, {7, 7, 1, 1}, {8, 8, 1, 2}};
    std::vector<unsigned long long> image_rows = {0, (unsigned long long)&image[width], 0, (unsigned long long)&image[0], 0};
    Reals expected;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i++) {
            double value = r == 1 ? image[width + i] : r == 3 ? image[i] : widen(table[meta[r].x * width + i]);
            expected.push_back(value * 4.0 + positions[meta[r].y * width + i]);
        }
    auto x = unwritten<float>(rows * width);
    launch({rows, 1, 1}, threads_of(width), [&] {
        embed<T>(meta.data(), image_rows.data(), table.data(), positions.data(), x.data(), width, 4.0f);
    });
    report("embed", Name<T>::text, shape_of({rows, width}), distance(reals(x), expected), 1e-6);
}

template <class T> static void check_pictures(int size, int patch, int padded, int width, int latents) {
    const int pictures = 2, across = size / patch, patches = across * across, rows = patches + 1;
    auto pixels = random_values<T>(pictures * 3 * size * size);
    Reals expected(pictures * patches * padded);
    for (int p = 0; p < pictures; p++)
        for (int index = 0; index < patches; index++)
            for (int plane = 0; plane < 3; plane++)
                for (int y = 0; y < patch; y++)
                    for (int x = 0; x < patch; x++) {
                        int at = ((p * 3 + plane) * size + index / across * patch + y) * size + index % across * patch + x;
                        expected[(p * patches + index) * padded + (plane * patch + y) * patch + x] = widen(pixels[at]);
                    }
    auto cut = unwritten<T>(expected.size());
    launch({(unsigned)(pictures * patches), 1, 1}, 256, [&] { cut_patches<T>(pixels.data(), cut.data(), size, patch, padded); });
    compare("cut_patches", shape_of({pictures, size, patch}), cut, expected);

    auto h = random_values<T>(pictures * rows * width), latent = random_values<T>(latents * width);
    auto bias = random_values<float>(width);
    Reals joined;
    for (int p = 0; p < pictures; p++)
        for (int r = 0; r < rows + latents; r++)
            for (int i = 0; i < width; i++)
                joined.push_back(r < rows ? (double)widen(h[(p * rows + r) * width + i]) + bias[i] : widen(latent[(r - rows) * width + i]));
    auto out = unwritten<T>(joined.size());
    launch({(unsigned)(pictures * (rows + latents)), 1, 1}, threads_of(width), [&] {
        with_latent<T>(h.data(), bias.data(), latent.data(), out.data(), rows, latents, width);
    });
    compare("with_latent", shape_of({pictures, rows, latents, width}), out, joined);

    auto y = random_values<T>(pictures * patches * width);
    auto class_row = random_values<float>(width);
    auto positions = random_values<float>(rows * width), weight = random_values<float>(width, 0.3, 1.0);
    Reals stream;
    for (int p = 0; p < pictures; p++)
        for (int r = 0; r < rows; r++) {
            for (int i = 0; i < width; i++)
                stream.push_back((double)positions[r * width + i] + (r == 0 ? class_row[i] : widen(y[(p * patches + r - 1) * width + i])));
            plain_norm(&stream[(p * rows + r) * width], width, weight, bias, 1e-5);
        }
    auto x = unwritten<float>(stream.size());
    launch({(unsigned)(pictures * rows), 1, 1}, threads_of(width), [&] {
        vision_rows<T>(y.data(), class_row.data(), positions.data(), weight.data(), bias.data(), x.data(), rows, width, 1e-5f);
    });
    report("vision_rows", Name<T>::text, shape_of({pictures, rows, width}), distance(reals(x), stream), 1e-6);
    if (sizeof(T) != 4) return;
    Reals added = reals(x);
    for (size_t i = 0; i < added.size(); i++) added[i] += bias[i % width];
    launch({(unsigned)((x.size() / PER_THREAD + 255) / 256), 1, 1}, 256, [&] { add_bias(x.data(), bias.data(), width, x.size()); });
    compare("add_bias", shape_of({(long)x.size() / width, width}), x, added);
}

template <class T, class Out, int ROWS> static void check_few_rows(int inner, int outputs, int warps_per_output) {
    int stride = (outputs + 7) / 8 * 8;
    auto weights = random_values<T>((size_t)outputs * inner), x = random_values<T>(ROWS * inner);
    std::vector<Out> y((size_t)ROWS * stride, narrow<Out>(0.0f));
    Reals expected(y.size());
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < outputs; o++)
            for (int i = 0; i < inner; i++) expected[r * stride + o] += (double)widen(weights[o * inner + i]) * widen(x[r * inner + i]);
    unsigned each = FEW_WARPS / warps_per_output;
    launch({(outputs + each - 1) / each, 1, 1}, FEW_WARPS * WARP, [&] {
        few_rows<T, Out, ROWS>(weights.data(), x.data(), y.data(), inner, outputs, stride, warps_per_output);
    });
    report("few_rows", Name<T>::text, shape_of({ROWS, inner, outputs, warps_per_output}), distance(reals(y), expected), Name<Out>::bound);
}

// softmax(q k / sqrt(D)) v for one query and head.
static Reals plain_attention(const Reals &query, const std::vector<Reals> &keys, const std::vector<Reals> &values) {
    Reals scores, weighted_sum(query.size());
    double largest = -INFINITY, sum = 0.0;
    for (const Reals &key : keys) {
        double s = 0.0;
        for (size_t i = 0; i < query.size(); i++) s += query[i] * key[i] / std::sqrt((double)query.size());
        scores.push_back(s);
        largest = std::max(largest, s);
    }
    for (double &s : scores) sum += s = std::exp(s - largest);
    for (size_t c = 0; c < keys.size(); c++)
        for (size_t i = 0; i < query.size(); i++) weighted_sum[i] += scores[c] / sum * values[c][i];
    return weighted_sum;
}

// The factor that turns products of queries and keys into exponents of two.
static float scale_of(int head_dim) { return (float)(1.0 / std::sqrt((double)head_dim) / std::log(2.0)); }

// Keys or values in the format of the cache, and the scale of each D of them if the format has scales.
template <class S> struct Cached {
    std::vector<S> values;
    std::vector<float> scales;
    double at(size_t where, int head_dim) const { return widen(values[where]) * (SCALED<S> ? scales[where / head_dim] : 1.0f); }
};

template <class S> static Cached<S> random_cached(size_t count, int head_dim) {
    if constexpr (SCALED<S>) {
        Cached<S> cached;
        for (float value : random_values<float>(count, 30.0)) cached.values.push_back((S)std::fmax(-127.0f, std::fmin(127.0f, std::rint(value))));
        for (float value : random_values<float>(count / head_dim, 0.002, 0.03)) cached.scales.push_back(value);
        return cached;
    } else {
        return {random_values<S>(count), {}};
    }
}

// Rows of slots of different lengths through append and attend_newest, in one launch (which appends the own key and value)
// and in two, with and without splits; then merge_norm.
template <class T, class S, int D> static void check_newest(int heads, std::vector<unsigned> columns, int splits, bool append_here) {
    const int length = 200, rows = columns.size(), slots = rows + 2, width = heads * D;
    const char *name = SCALED<S> ? "int8" : Name<T>::text;
    auto keys = random_cached<S>((size_t)slots * heads * length * D, D), values = random_cached<S>(keys.values.size(), D);
    auto qkv = random_values<T>(rows * 3 * width);
    auto bias = random_values<float>(3 * width, 0.3), weight = random_values<float>(width, 0.3, 1.0), norm_bias = random_values<float>(width, 0.2);
    std::vector<uint4> meta;
    for (int r = 0; r < rows; r++) meta.push_back({0, 0, (unsigned)(slots - 1 - r), columns[r]});
    // A pair of scales for each column, as in the kernels.
    std::vector<float2> scales;
    for (size_t i = 0; i < keys.scales.size(); i++) scales.push_back({keys.scales[i], values.scales[i]});
    auto before = keys, values_before = values;
    Reals expected;
    auto at = [&](int r, int head, int column) { return (((size_t)meta[r].z * heads + head) * length + column) * D; };
    // The expected new columns of the cache.
    auto put = [&](Cached<S> &cached, int r, int part, int head) {
        float own[D], largest = 0.0f;
        for (int i = 0; i < D; i++) {
            int where = part * width + head * D + i;
            own[i] = widen(narrow<T>(widen(qkv[r * 3 * width + where]) + bias[where]));
            largest = std::fmax(largest, std::fabs(own[i]));
        }
        size_t to = at(r, head, columns[r]);
        for (int i = 0; i < D; i++) {
            if constexpr (SCALED<S>) {
                cached.values[to + i] = (S)std::rint(own[i] / (largest / 127.0f));
            } else {
                cached.values[to + i] = narrow<S>(own[i]);
            }
        }
        if (SCALED<S>) cached.scales[to / D] = largest / 127.0f;
    };
    for (int r = 0; r < rows; r++) {
        for (int head = 0; head < heads; head++) {
            put(before, r, 1, head), put(values_before, r, 2, head);
            Reals query;
            std::vector<Reals> k, v;
            for (int i = 0; i < D; i++) query.push_back(widen(narrow<T>(widen(qkv[r * 3 * width + head * D + i]) + bias[head * D + i])));
            for (unsigned c = 0; c <= columns[r]; c++) {
                k.emplace_back(), v.emplace_back();
                for (int i = 0; i < D; i++) {
                    k[c].push_back(before.at(at(r, head, c) + i, D));
                    v[c].push_back(values_before.at(at(r, head, c) + i, D));
                }
            }
            Reals weighted_sum = plain_attention(query, k, v);
            expected.insert(expected.end(), weighted_sum.begin(), weighted_sum.end());
        }
        plain_norm(&expected[r * width], width, weight, norm_bias, 1e-5);
    }
    if (!append_here) {
        launch({(unsigned)rows, 1, 1}, 256, [&] {
            append<T, S, D>(meta.data(), qkv.data(), bias.data(), keys.values.data(), values.values.data(), scales.data(), heads, length);
        });
    }
    auto partial_sums = unwritten<float>((size_t)rows * splits * width);
    auto softmax_stats = unwritten<float>((size_t)rows * heads * splits * 2);
    launch({(unsigned)(heads + QUERY_WARPS - 1) / QUERY_WARPS, (unsigned)rows, (unsigned)splits}, QUERY_WARPS * WARP, [&] {
        attend_newest<T, S, D>(meta.data(), qkv.data(), bias.data(), keys.values.data(), values.values.data(), scales.data(),
                               partial_sums.data(), softmax_stats.data(), heads, length, append_here, scale_of(D));
    });
    auto out = unwritten<T>(rows * width);
    launch({(unsigned)rows, 1, 1}, threads_of(width), [&] {
        merge_norm<T>(partial_sums.data(), softmax_stats.data(), weight.data(), norm_bias.data(), out.data(), heads, D, splits, 1e-5f);
    });
    compare("attend_newest", shape_of({rows, heads, D, splits}), out, expected);
    // The cache holds the new columns and is otherwise unchanged.
    auto wrong = [&] {
        bool same = keys.values.size() == before.values.size();
        auto bytes = [](const std::vector<S> &values) { return values.size() * sizeof(S); };
        same = same && memcmp(keys.values.data(), before.values.data(), bytes(keys.values)) == 0;
        same = same && memcmp(values.values.data(), values_before.values.data(), bytes(values.values)) == 0;
        for (size_t i = 0; i < scales.size(); i++) same = same && scales[i].x == before.scales[i] && scales[i].y == values_before.scales[i];
        return same ? 0.0 : 1.0;
    };
    report("  the cache", name, shape_of({rows, heads, D}), wrong(), 0.0);

    std::vector<uint4> copies = {{(unsigned)slots - 1, 0, 1, columns[0]}, {(unsigned)slots - 2, 1, 0, 3}};
    launch({2, (unsigned)heads, 1}, 128, [&] {
        copy_columns<S, D>(copies.data(), keys.values.data(), values.values.data(), scales.data(), heads, length);
    });
    for (uint4 copy : copies)
        for (int head = 0; head < heads; head++) {
            size_t from = ((size_t)copy.x * heads + head) * length + copy.z, to = ((size_t)copy.y * heads + head) * length + copy.z;
            for (Cached<S> *cached : {&before, &values_before}) {
                std::copy_n(cached->values.begin() + from * D, copy.w * D, cached->values.begin() + to * D);
                if (SCALED<S>) std::copy_n(cached->scales.begin() + from, copy.w, cached->scales.begin() + to);
            }
        }
    report("copy_columns", name, shape_of({2, heads, D}), wrong(), 0.0);
}

struct Piece {
    unsigned rows, context, first_visible;
};

// Pieces of queries of different lengths, causal or not. Contexts are interleaved as in the vision tower.
template <class T, int D> static void check_tiles(int heads, int length, std::vector<Piece> pieces, bool causal, bool biased, bool on_tensor_cores) {
    const int width = heads * D, contexts = 3;
    Strides strides = {(unsigned long long)length * 3 * width, D, (unsigned)(3 * width)};
    auto qkv = random_values<T>((size_t)contexts * length * 3 * width);
    auto bias = random_values<float>(3 * width, 0.3);
    unsigned total = 0;
    std::vector<Tile> tiles;
    for (Piece piece : pieces)
        for (unsigned done = 0; done < piece.rows; done += TILE_ROWS) {
            unsigned rows = std::min<unsigned>(TILE_ROWS, piece.rows - done);
            tiles.push_back({total, rows, piece.context, piece.first_visible + (causal ? done : 0), causal, total});
            total += rows;
        }
    auto queries = random_values<T>((size_t)total * width);
    Reals expected;
    for (const Tile &tile : tiles)
        for (unsigned r = 0; r < tile.rows; r++)
            for (int head = 0; head < heads; head++) {
                Reals query;
                std::vector<Reals> k, v;
                for (int i = 0; i < D; i++) {
                    float value = widen(queries[(tile.query + r) * width + head * D + i]) + (biased ? bias[head * D + i] : 0.0f);
                    query.push_back(widen(narrow<T>(value)));
                }
                for (unsigned c = 0; c < tile.first_visible + r * tile.step; c++) {
                    k.emplace_back(), v.emplace_back();
                    const T *row = &qkv[(tile.context * length + c) * 3 * width + head * D];
                    for (int i = 0; i < D; i++) {
                        k[c].push_back(widen(row[width + i]));
                        v[c].push_back(widen(row[2 * width + i]) + (biased ? bias[2 * width + head * D + i] : 0.0));
                    }
                }
                Reals weighted_sum = plain_attention(query, k, v);
                expected.insert(expected.end(), weighted_sum.begin(), weighted_sum.end());
            }
    auto out = unwritten<T>((size_t)total * width);
    const float *query_bias = biased ? bias.data() : nullptr, *value_bias = biased ? bias.data() + 2 * width : nullptr;
    const T *keys = qkv.data() + width, *values = qkv.data() + 2 * width;
    unsigned count = tiles.size(), groups = (heads + QUERY_WARPS - 1) / QUERY_WARPS;
    if constexpr (sizeof(T) == 2) {
        if (on_tensor_cores) {
            launch({(unsigned)heads, count, 1}, TILE_WARPS * WARP, [&] {
                attend_tiles<T, T, D>(tiles.data(), queries.data(), width, query_bias, keys, values, nullptr, strides, value_bias, out.data(), heads, scale_of(D));
            });
        }
    }
    if (!on_tensor_cores) {
        launch({groups, count, TILE_ROWS}, QUERY_WARPS * WARP, [&] {
            attend_rows<T, D>(tiles.data(), queries.data(), width, query_bias, keys, values, strides, value_bias, out.data(), heads, scale_of(D));
        });
    }
    compare(on_tensor_cores ? "attend_tiles" : "attend_rows", shape_of({total, heads, D}) + (causal ? " causal" : ""), out, expected);
}

// Causal tiles against a cache of int8.
template <class T, int D> static void check_cached_tiles(int heads, unsigned rows, unsigned first_visible) {
    const int length = 150, width = heads * D, contexts = 2;
    auto keys = random_cached<int8>((size_t)contexts * heads * length * D, D), values = random_cached<int8>(keys.values.size(), D);
    std::vector<float2> scales;
    for (size_t i = 0; i < keys.scales.size(); i++) scales.push_back({keys.scales[i], values.scales[i]});
    auto queries = random_values<T>((size_t)rows * width);
    std::vector<Tile> tiles = {{0, rows, 1, first_visible, 1, 0}};
    Reals expected;
    for (unsigned r = 0; r < rows; r++)
        for (int head = 0; head < heads; head++) {
            Reals query;
            std::vector<Reals> k, v;
            for (int i = 0; i < D; i++) query.push_back(widen(queries[r * width + head * D + i]));
            for (unsigned c = 0; c < first_visible + r; c++) {
                k.emplace_back(), v.emplace_back();
                for (int i = 0; i < D; i++) {
                    size_t where = ((size_t)(heads + head) * length + c) * D + i;
                    // Products are computed in T.
                    k[c].push_back(widen(narrow<T>((float)keys.at(where, D))));
                    v[c].push_back(widen(narrow<T>((float)values.at(where, D))));
                }
            }
            Reals weighted_sum = plain_attention(query, k, v);
            expected.insert(expected.end(), weighted_sum.begin(), weighted_sum.end());
        }
    auto out = unwritten<T>((size_t)rows * width);
    Strides strides = {(unsigned long long)heads * length * D, (unsigned long long)length * D, D};
    launch({(unsigned)heads, 1, 1}, TILE_WARPS * WARP, [&] {
        attend_tiles<T, int8, D>(tiles.data(), queries.data(), width, nullptr, keys.values.data(), values.values.data(), scales.data(),
                                 strides, nullptr, out.data(), heads, scale_of(D));
    });
    compare("attend_tiles, int8", shape_of({rows, heads, D}), out, expected);
}

template <class T, class S, int D> static void check_cache(int heads) {
    check_newest<T, S, D>(heads, {0, 1, 5, 17, 63, 130, 199}, 1, true);
    check_newest<T, S, D>(heads, {3, 64, 33}, 1, false);
    check_newest<T, S, D>(heads, {0, 7, 150}, 5, true);
    check_newest<T, S, D>(heads, {2, 90}, 8, false);
}

template <class T, int D> static void check_attention(int heads) {
    check_cache<T, T, D>(heads);
    if constexpr (sizeof(T) == 2) {
        check_cache<T, int8, D>(heads);
        check_cached_tiles<T, D>(heads, 71, 1);
        check_cached_tiles<T, D>(heads, 5, 67);
    }
    for (bool tensor_cores : {false, true}) {
        if (tensor_cores && sizeof(T) == 4) continue;
        check_tiles<T, D>(heads, 140, {{71, 0, 1}, {5, 1, 67}, {2, 2, 64}, {130, 1, 1}}, true, true, tensor_cores);
        check_tiles<T, D>(heads, 65, {{65, 2, 65}, {65, 0, 65}, {8, 1, 33}}, false, true, tensor_cores);
        check_tiles<T, D>(heads, 40, {{1, 0, 1}, {16, 1, 40}}, false, false, tensor_cores);
    }
}

static void check_select_token(int vocabulary) {
    const int stride = (vocabulary + 7) / 8 * 8, rows = 7, patches = std::min(1024, vocabulary / 2), first = vocabulary - patches;
    auto logits = random_values<float>((size_t)rows * stride, 3.0);
    std::vector<unsigned short> codes(vocabulary);
    for (int i = 0; i < vocabulary; i++) codes[i] = i >= first ? PATCH << CELL_BITS | (i - first) : (i * 7 % 9) << CELL_BITS;
    const unsigned end = vocabulary, start = first;
    unsigned corner_cell = 3 * SIDE + 4;
    std::vector<uint4> requests = {{BEST, EVERYTHING, start, end}, {BEST, 1u << 3, start, end}, {BEST, 1u << PATCH, start, end},
                                {BEST, corner_cell << 16 | 1u << PATCH, start, end}, {5, EVERYTHING, start, end},
                                {BEST, EVERYTHING, 0, 0}, {BEST, EVERYTHING, start, end}};
    logits[3 * stride + first] = 50.0f;                       // the best patch token is above the corner: not allowed
    logits[5 * stride + 9] = logits[5 * stride + 20] = 40.0f; // of equal logits, the first token is selected
    logits[6 * stride + 1] = NAN;
    std::vector<uint4> results(rows, {77, 77, 77, 77});
    launch({rows, 1, 1}, SELECT_THREADS, [&] { select_token(logits.data(), stride, vocabulary, requests.data(), codes.data(), results.data()); });
    int wrong = 0;
    double error = 0.0;
    for (int r = 0; r < rows; r++) {
        const float *row = &logits[(size_t)r * stride];
        double sum = 0.0;
        int best = -1;
        for (int i = 0; i < vocabulary; i++) {
            sum += std::exp((double)row[i]);
            unsigned kind = codes[i] >> CELL_BITS, cell = codes[i] & 1023, set = requests[r].y & 0xffff, corner = requests[r].y >> 16;
            bool may = set == EVERYTHING || (set >> kind & 1);
            if (may && set != EVERYTHING && kind == PATCH) may = corner % SIDE <= cell % SIDE && corner / SIDE <= cell / SIDE;
            if (may && (best < 0 || row[i] > row[best])) best = i;
        }
        if (requests[r].x != BEST) best = requests[r].x;
        float logprob = as_float(results[r].y);
        if (r == 6) {
            wrong += !std::isnan(logprob);
            continue;
        }
        wrong += (int)results[r].x != best;
        error = std::max(error, std::fabs(logprob - (row[best] - std::log(sum))));
        if (best < (int)requests[r].z || best >= (int)requests[r].w) continue;
        int chosen = best - first;
        double total = 0.0, x = 0.0, y = 0.0;
        for (int line = std::max(0, chosen / SIDE - REACH); line <= std::min(SIDE - 1, chosen / SIDE + REACH); line++)
            for (int column = std::max(0, chosen % SIDE - REACH); column <= std::min(SIDE - 1, chosen % SIDE + REACH); column++) {
                if (line * SIDE + column >= patches) continue;
                double weight = std::exp((double)row[first + line * SIDE + column] - row[best]);
                total += weight, x += weight * column, y += weight * line;
            }
        error = std::max({error, std::fabs(as_float(results[r].z) - x / total), std::fabs(as_float(results[r].w) - y / total)});
    }
    report("select_tokens", "f32", shape_of({rows, vocabulary}), wrong + error, 2e-5);
}

template <class T> static void check_format() {
    for (int width : {64, 192, 256, 896, 1024, 2048}) check_rows<T>(3, width);
    check_rows<T>(2, 8192);
    for (int width : {64, 2048}) check_embed<T>(width);
    check_pictures<T>(28, 14, 592, 192, 3);
    check_few_rows<T, T, 1>(256, 37, 1);
    check_few_rows<T, T, 2>(896, 16, 2);
    check_few_rows<T, float, 2>(2048, 21, 1);
    check_few_rows<T, float, 1>(8192, 9, 2);
    check_few_rows<T, float, 1>(200, 5, 2);
    check_attention<T, 64>(6);
    check_attention<T, 32>(8);
    check_attention<T, 16>(4);
}

int main() {
    check_format<float>();
    check_format<f16>();
    check_format<bf16>();
    for (int vocabulary : {65037, 4138, 1030}) check_select_token(vocabulary);
    printf("%d wrong\n", failures);
    return failures > 0;
}
