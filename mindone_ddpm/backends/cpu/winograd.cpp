// A thread takes some tens of tiles at a time. For each 16 channels it brings their pixels into the order (pixel, channel)
// and transforms them to points; then it multiplies channels by weights at each point, and transforms what comes out to
// pixels, for each 16 outputs: all in its cache.

#include <atomic>

#include "winograd_tiles.h"

namespace {

// --- products -------------------------------------------------------------------------------------------------------

// Of the products: numbers in a register, registers and rows that are summed at the same time.
#if defined(__AVX512F__)  // of 32 registers
typedef Vector Register;
constexpr int most_across = 4;
#elif defined(__AVX2__)  // of 16
typedef float Register __attribute__((vector_size(32)));
constexpr int most_across = 2;
#else  // NEON: of 32
typedef float Register __attribute__((vector_size(16)));
constexpr int most_across = 4;
#endif
constexpr int64_t in_register = sizeof(Register) / sizeof(float);
constexpr int64_t rows_at_once = 6;  // tiles in one step of a product, as long as there are so many

// Columns of outputs that are multiplied together from one on: as many registers as there are, or half, or a quarter.
int64_t columns_from(int64_t output, int64_t outputs) {
    int64_t columns = most_across * in_register;
    while (columns > outputs - output) columns /= 2;
    return columns;
}

// Prepared weights are, at each point, groups of such columns, and in each group the channels. This is the place of 16.
int64_t place_of(int64_t channel, int64_t output, int64_t channels, int64_t outputs) {
    int64_t first = 0;
    while (output >= first + columns_from(first, outputs)) first += columns_from(first, outputs);
    return first * channels + channel * columns_from(first, outputs) + output - first;
}

inline Register get(const float *from) {
    Register result;
    std::memcpy(&result, from, sizeof(result));
    return result;
}

struct Matrix {
    const float *values;
    int64_t row, column;  // distances from one to the next
};

// rows x (across registers) of the product of `a` and `b`, each of depth `depth`; added to the result or not.
template <int rows, int across, bool adds>
__attribute__((noinline)) void multiply_some(Matrix a, Matrix b, int64_t depth, float *result, int64_t stride) {
    Register sums[rows][across];
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < across; ++j) sums[i][j] = adds ? get(result + i * stride + j * in_register) : Register{};
    for (int64_t d = 0; d < depth; ++d) {
        Register line[across];
#pragma GCC unroll 4
        for (int j = 0; j < across; ++j) line[j] = get(b.values + d * b.row + j * in_register);
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) {
            const float factor = a.values[i * a.row + d * a.column];
#pragma GCC unroll 4
            for (int j = 0; j < across; ++j) sums[i][j] += factor * line[j];
        }
    }
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < across; ++j)
            std::memcpy(result + i * stride + j * in_register, &sums[i][j], sizeof(Register));
}

template <int across, bool adds>
void multiply_columns(int64_t rows, Matrix a, Matrix b, int64_t depth, float *result, int64_t stride) {
    int64_t row = 0;
    for (; row + rows_at_once <= rows; row += rows_at_once, a.values += rows_at_once * a.row)
        multiply_some<rows_at_once, across, adds>(a, b, depth, result + row * stride, stride);
    for (; row + few_rows <= rows; row += few_rows, a.values += few_rows * a.row)
        multiply_some<few_rows, across, adds>(a, b, depth, result + row * stride, stride);
}

// `rows` x `columns` of a product; `columns` as of columns_from, and `rows` even.
template <bool adds>
void multiply_columns(int64_t columns, int64_t rows, Matrix a, Matrix b, int64_t depth, float *result, int64_t stride) {
    if (columns == most_across * in_register) multiply_columns<most_across, adds>(rows, a, b, depth, result, stride);
    else if (columns == 2 * in_register) multiply_columns<2, adds>(rows, a, b, depth, result, stride);
    else multiply_columns<1, adds>(rows, a, b, depth, result, stride);
}

// The points of a patch's tiles, all channels.
template <int side>
void take_input(const float *x, const WinogradShape &shape, const Patch &patch, Vector *pixels, float *to,
                int64_t stride) {
    for (int64_t channel = 0; channel < shape.channels; channel += lanes) {
        lay_out(x, shape.channels, channel, shape, patch, 1, pixels);
        transform_input<side>(pixels, patch, to + channel, shape.channels, stride);
    }
}

template <int side>
void prepare(const float *weights, const WinogradShape &shape, float *prepared) {
    const int64_t size = shape.channels * shape.outputs;
    parallel(shape.outputs / lanes, [&](int64_t number) {
        const int64_t output = number * lanes;
        for (int64_t channel = 0; channel < shape.channels; channel += lanes) {
            Vector values[9 * lanes];  // of a channel and a place in 3 x 3, for 16 outputs
            for (int64_t part = 0; part < 9; ++part) {
                Vector *square = values + part * lanes;
                for (int64_t i = 0; i < lanes; ++i)
                    square[i] = load(weights + ((output + i) * shape.channels + channel) * 9 + part * lanes);
                swap_rows_and_columns(square);
            }
            for (int64_t i = 0; i < lanes; ++i)
                transform_weights<side>(values + 9 * i, 1,
                                        prepared + place_of(channel + i, output, shape.channels, shape.outputs), size);
        }
    });
}

template <int side>
void prepare_turned(const float *weights, const WinogradShape &shape, float *prepared) {
    const int64_t size = shape.channels * shape.outputs;
    parallel(shape.outputs, [&](int64_t output) {
        for (int64_t channel = 0; channel < shape.channels; channel += lanes) {
            const float *from = weights + (output * shape.channels + channel) * 9;
            Vector values[lanes];  // of a place in 3 x 3, for 16 channels
            for (int64_t i = 0; i < lanes - 1; ++i) values[i] = load(from + 9 * i);
            values[lanes - 1] = load_some(from + 9 * (lanes - 1), 9);
            swap_rows_and_columns(values);
            const int64_t place = place_of(output, channel, shape.outputs, shape.channels);
            transform_weights<side>(values + 8, -1, prepared + place, size);
        }
    });
}

template <int side>
void convolve_tiles(const float *x, const float *prepared, const float *bias, float *y,
                    const WinogradShape &shape, float *memory) {
    constexpr int64_t points = (side + 2) * (side + 2);
    const Division division(shape);
    const int64_t channels = shape.channels, outputs = shape.outputs;
    const int64_t stride_in = division.stride(channels), stride_out = division.stride(outputs);
    std::atomic<int64_t> next{0};
    parallel(pool->get_num_threads(), [&](int64_t thread) {
        float *in = memory + thread * division.size();
        float *out = in + points * stride_in;
        Vector *pixels = reinterpret_cast<Vector *>(out + points * stride_out);
        for (int64_t block; (block = next.fetch_add(1)) < division.blocks;) {
            int64_t tiles = division.for_each_patch(block, [&](const Patch &patch, int64_t tile) {
                take_input<side>(x, shape, patch, pixels, in + tile * channels, stride_in);
            });
            const int64_t all = parts_of(tiles, few_rows) * few_rows;
            for (int64_t point = 0; point < points; ++point) {
                float *own = in + point * stride_in;
                std::memset(own + tiles * channels, 0, (all - tiles) * channels * sizeof(float));
                const float *weights = prepared + point * channels * outputs;
                for (int64_t output = 0, columns; output < outputs; output += columns) {
                    columns = columns_from(output, outputs);
                    multiply_columns<false>(columns, all, {own, channels, 1}, {weights + output * channels, columns, 1},
                                            channels, out + point * stride_out + output, outputs);
                }
            }
            division.for_each_patch(block, [&](const Patch &patch, int64_t tile) {
                for (int64_t output = 0; output < outputs; output += lanes) {
                    transform_output<side>(out + tile * outputs + output, outputs, stride_out,
                                           bias == nullptr ? Vector{} : load(bias + output), patch, pixels);
                    bring_back(pixels, outputs, output, shape, patch, y);
                }
            });
        }
    });
}

// Of each thread: the gradients of the weights, at the points, and of the bias, summed over its tiles.
int64_t sums_size(const WinogradShape &shape) {
    return shape.points() * (shape.channels * shape.outputs + lanes) + shape.outputs;
}

template <int side>
void tiles_to_weights(const float *dy, const float *x, float *dweights, float *dbias,
                      const WinogradShape &shape, float *memory) {
    constexpr int64_t points = (side + 2) * (side + 2);
    const Division division(shape);
    const int64_t channels = shape.channels, outputs = shape.outputs, threads = pool->get_num_threads();
    const int64_t stride_in = division.stride(channels), stride_out = division.stride(outputs);
    const int64_t stride = channels * outputs + lanes, own_size = sums_size(shape);
    parallel(threads, [&](int64_t thread) {
        float *sums = memory + thread * own_size, *bias_sums = sums + points * stride;
        float *in = memory + threads * own_size + thread * division.size();
        float *out = in + points * stride_in;
        Vector *pixels = reinterpret_cast<Vector *>(out + points * stride_out);
        std::memset(sums, 0, own_size * sizeof(float));
        const int64_t first = division.blocks * thread / threads, last = division.blocks * (thread + 1) / threads;
        for (int64_t block = first; block < last; ++block) {
            const int64_t tiles = division.for_each_patch(block, [&](const Patch &patch, int64_t tile) {
                take_input<side>(x, shape, patch, pixels, in + tile * channels, stride_in);
                for (int64_t output = 0; output < outputs; output += lanes) {
                    lay_out(dy, outputs, output, shape, patch, 0, pixels);
                    transform_gradient<side>(pixels, patch, out + tile * outputs + output, outputs, stride_out);
                    Vector sum = {};
                    for (int64_t pixel = 0; pixel < side * side * patch.tiles(); ++pixel) sum += pixels[pixel];
                    store(bias_sums + output, load(bias_sums + output) + sum);
                }
            });
            for (int64_t point = 0; point < points; ++point)
                for (int64_t output = 0, columns; output < outputs; output += columns) {
                    columns = columns_from(output, outputs);
                    multiply_columns<true>(columns, channels, {in + point * stride_in, 1, channels},
                                           {out + point * stride_out + output, outputs, 1}, tiles,
                                           sums + point * stride + output, outputs);
                }
        }
    });
    const auto sum_of_threads = [&](const float *place) {
        Vector sum = load(place);
        for (int64_t thread = 1; thread < threads; ++thread) sum += load(place + thread * own_size);
        return sum;
    };
    parallel(outputs / lanes, [&](int64_t number) {
        const int64_t output = number * lanes;
        if (dbias != nullptr) store(dbias + output, sum_of_threads(memory + points * stride + output));
        for (int64_t channel = 0; channel < channels; channel += lanes) {
            Vector values[9 * lanes];  // as in prepare
            for (int64_t i = 0; i < lanes; ++i) {
                const float *place = memory + (channel + i) * outputs + output;
                transform_weights_back<side>(
                    [&](int row, int column) { return sum_of_threads(place + ((side + 2) * row + column) * stride); },
                    values + 9 * i);
            }
            for (int64_t part = 0; part < 9; ++part) {
                Vector *square = values + part * lanes;
                swap_rows_and_columns(square);
                for (int64_t i = 0; i < lanes; ++i)
                    store(dweights + ((output + i) * channels + channel) * 9 + part * lanes, square[i]);
            }
        }
    });
}

}  // namespace

// Calls a function of this file by the side of the tiles.
#define BY_SIDE(function, ...) shape.side == 2 ? function<2>(__VA_ARGS__) : function<4>(__VA_ARGS__)

void native::winograd_prepare(const float *weights, const WinogradShape &shape, float *prepared) {
    BY_SIDE(prepare, weights, shape, prepared);
}

void native::winograd_prepare_turned(const float *weights, const WinogradShape &shape, float *prepared) {
    BY_SIDE(prepare_turned, weights, shape, prepared);
}

size_t native::winograd_memory(const WinogradShape &shape) { return Division(shape).size() * pool->get_num_threads(); }

void native::winograd_convolve(const float *x, const float *prepared, const float *bias, float *y,
                               const WinogradShape &shape, float *memory) {
    BY_SIDE(convolve_tiles, x, prepared, bias, y, shape, memory);
}

size_t native::winograd_memory_to_weights(const WinogradShape &shape) {
    return (Division(shape).size() + sums_size(shape)) * pool->get_num_threads();
}

void native::winograd_to_weights(const float *dy, const float *x, float *dweights, float *dbias,
                                 const WinogradShape &shape, float *memory) {
    BY_SIDE(tiles_to_weights, dy, x, dweights, dbias, shape, memory);
}

#undef BY_SIDE
