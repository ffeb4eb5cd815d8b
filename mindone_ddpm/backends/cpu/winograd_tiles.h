// The tiles of winograd.cpp: where they are, their pixels, and the transformations to their points and back.

#pragma once

#include "vectors.h"
#include "winograd.h"

using namespace native;

namespace {

constexpr int64_t few_rows = 2;  // tiles in one step of a product at least

// Tiles, channels and outputs that fit into half of a core's cache of the second level, where that has 2 MB. With few
// tiles the weights would be read too often.
constexpr int64_t numbers_together = 1 << 18, fewest_tiles = 36, most_tiles = 48;

// --- where the tiles are --------------------------------------------------------------------------------------------

// `rows` x `columns` tiles in one sample.
struct Patch {
    int64_t sample, top, left, rows, columns;  // top and left in pixels
    int64_t tiles() const { return rows * columns; }
};

// How all tiles are divided into patches, and patches into blocks, each for one turn of a thread.
struct Division {
    const WinogradShape shape;
    int64_t high, wide, down, across, patches, patches_together, blocks, tiles_together;

    explicit Division(const WinogradShape &of) : shape(of) {
        const int64_t threads = pool->get_num_threads(), rows = parts_of(of.height, of.side);
        const int64_t columns = parts_of(of.width, of.side);
        int64_t tiles = numbers_together / of.points() / (of.channels + of.outputs);
        tiles = std::min(std::clamp(tiles, fewest_tiles, most_tiles), parts_of(of.tiles(), threads));
        across = parts_of(columns, std::min(tiles, columns));
        wide = parts_of(columns, across);
        down = parts_of(rows, std::min(rows, std::max<int64_t>(1, tiles / wide)));
        high = parts_of(rows, down);
        patches = of.samples * down * across;
        // As many for each thread, as far as that can be.
        const int64_t rounds = parts_of(patches, threads * std::max<int64_t>(1, tiles / (wide * high)));
        patches_together = parts_of(patches, threads * rounds);
        blocks = parts_of(patches, patches_together);
        tiles_together = parts_of(patches_together * wide * high, few_rows) * few_rows;
    }

    Patch patch(int64_t number) const {
        const int64_t column = number % across * wide, row = number / across % down * high;
        return {number / across / down, shape.side * row, shape.side * column,
                std::min(high, parts_of(shape.height, shape.side) - row),
                std::min(wide, parts_of(shape.width, shape.side) - column)};
    }

    // Calls `body` with each patch of a block and the number of its first tile. Returns how many tiles there are.
    template <typename Body>
    int64_t for_each_patch(int64_t block, const Body &body) const {
        int64_t tiles = 0;
        for (int64_t i = block * patches_together; i < std::min(patches, (block + 1) * patches_together); ++i) {
            const Patch own = patch(i);
            body(own, tiles);
            tiles += own.tiles();
        }
        return tiles;
    }

    // From one point to the next, in numbers. Not a power of two, where all would lie in the same sets of the cache.
    int64_t stride(int64_t channels) const { return tiles_together * channels + lanes; }
    int64_t pixels_size() const { return (shape.side * high + 2) * (shape.side * wide + 2) * lanes; }  // of 16 channels
    // Of one thread: points of the channels, points of the outputs, pixels.
    int64_t size() const { return shape.points() * (stride(shape.channels) + stride(shape.outputs)) + pixels_size(); }
};

// --- between (channel, height, width) and (height, width, channel) --------------------------------------------------

inline Vector load_some(const float *from, int64_t count) {
    Vector result = {};
    std::memcpy(&result, from, count * sizeof(float));
    return result;
}

inline void store_some(float *to, const Vector &values, int64_t count) {
    if (count == lanes) return store(to, values);
    if (count == lanes / 2) std::memcpy(to, &values, lanes / 2 * sizeof(float));
    else std::memcpy(to, &values, count * sizeof(float));
}

// The pixels of a patch, and `border` more on each side, of 16 channels from `channel` on; zeros outside of the image.
void lay_out(const float *images, int64_t channels, int64_t channel, const WinogradShape &shape, const Patch &patch,
             int64_t border, Vector *pixels) {
    const int64_t rows = shape.side * patch.rows + 2 * border, columns = shape.side * patch.columns + 2 * border;
    const int64_t area = shape.height * shape.width, top = patch.top - border, left = patch.left - border;
    const int64_t first = std::max<int64_t>(0, left), last = std::min(shape.width, left + columns);
    const float *image = images + (patch.sample * channels + channel) * area;
    const float *readable = images + shape.samples * channels * area - lanes;
    for (int64_t row = 0; row < rows; ++row, pixels += columns) {
        const int64_t y = top + row;
        if (y < 0 || y >= shape.height) {
            std::fill(pixels, pixels + columns, Vector{});
            continue;
        }
        std::fill(pixels, pixels + (first - left), Vector{});
        std::fill(pixels + (last - left), pixels + columns, Vector{});
        for (int64_t x = first; x < last; x += lanes) {
            const int64_t count = std::min(lanes, last - x);
            const float *from = image + y * shape.width + x;
            Vector square[lanes];
            for (int64_t i = 0; i < lanes; ++i, from += area)
                square[i] = from <= readable ? load(from) : load_some(from, count);
            swap_rows_and_columns(square);
            for (int64_t i = 0; i < count; ++i) pixels[x - left + i] = square[i];
        }
    }
}

// And back, without a border.
void bring_back(const Vector *pixels, int64_t channels, int64_t channel, const WinogradShape &shape, const Patch &patch,
                float *images) {
    const int64_t area = shape.height * shape.width;
    const int64_t rows = std::min(shape.side * patch.rows, shape.height - patch.top);
    const int64_t columns = std::min(shape.side * patch.columns, shape.width - patch.left);
    float *image = images + (patch.sample * channels + channel) * area + patch.top * shape.width + patch.left;
    for (int64_t row = 0; row < rows; ++row, pixels += shape.side * patch.columns)
        for (int64_t x = 0; x < columns; x += lanes) {
            const int64_t count = std::min(lanes, columns - x);
            Vector square[lanes];
            for (int64_t i = 0; i < lanes; ++i) square[i] = i < count ? pixels[x + i] : Vector{};
            swap_rows_and_columns(square);
            float *to = image + row * shape.width + x;
            for (int64_t i = 0; i < lanes; ++i) store_some(to + i * area, square[i], count);
        }
}

// --- the transformations of 16 channels, with the paper's names of the matrices --------------------------------------

// In one direction, by the side of a tile: of pixels to points (B^T d), of a gradient's pixels to points (A dy), of points
// to pixels (A^T m), of weights to points (G g), and back (G^T m).
template <int side>
struct OneWay;

// Points 0, 1, -1 and infinity.
template <>
struct OneWay<2> {
    static void input(const Vector (&d)[4], Vector (&to)[4]) {
        to[0] = d[0] - d[2];
        to[1] = d[1] + d[2];
        to[2] = d[2] - d[1];
        to[3] = d[1] - d[3];
    }
    static void gradient(const Vector (&dy)[2], Vector (&to)[4]) {
        to[0] = dy[0];
        to[1] = dy[0] + dy[1];
        to[2] = dy[0] - dy[1];
        to[3] = -dy[1];
    }
    static void output(const Vector (&m)[4], Vector (&to)[2]) {
        to[0] = m[0] + m[1] + m[2];
        to[1] = m[1] - m[2] - m[3];
    }
    static void weights(const Vector (&g)[3], Vector (&to)[4]) {
        to[0] = g[0];
        to[1] = (g[0] + g[1] + g[2]) * 0.5f;
        to[2] = (g[0] - g[1] + g[2]) * 0.5f;
        to[3] = g[2];
    }
    static void weights_back(const Vector (&m)[4], Vector (&to)[3]) {
        const Vector plus = (m[1] + m[2]) * 0.5f, minus = (m[1] - m[2]) * 0.5f;
        to[0] = m[0] + plus;
        to[1] = minus;
        to[2] = plus + m[3];
    }
};

// Points 0, a, -a, b, -b and infinity. With these a and b results have half of the rounding errors that the paper's 1 and
// 2 give, and some three times those of tiles of 2x2.
template <>
struct OneWay<4> {
    static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
    static constexpr float by_zero = 1.0f / (aa * bb), by_a = 0.5f / (aa * (aa - bb)), by_b = 0.5f / (bb * (bb - aa));

    static void input(const Vector (&d)[6], Vector (&to)[6]) {
        const Vector even_a = d[4] - bb * d[2], odd_a = a * (d[3] - bb * d[1]);
        const Vector even_b = d[4] - aa * d[2], odd_b = b * (d[3] - aa * d[1]);
        to[0] = d[4] - (aa + bb) * d[2] + aa * bb * d[0];
        to[1] = even_a + odd_a;
        to[2] = even_a - odd_a;
        to[3] = even_b + odd_b;
        to[4] = even_b - odd_b;
        to[5] = d[5] - (aa + bb) * d[3] + aa * bb * d[1];
    }
    static void gradient(const Vector (&dy)[4], Vector (&to)[6]) {
        const Vector even_a = dy[0] + aa * dy[2], odd_a = a * (dy[1] + aa * dy[3]);
        const Vector even_b = dy[0] + bb * dy[2], odd_b = b * (dy[1] + bb * dy[3]);
        to[0] = dy[0];
        to[1] = even_a + odd_a;
        to[2] = even_a - odd_a;
        to[3] = even_b + odd_b;
        to[4] = even_b - odd_b;
        to[5] = dy[3];
    }
    static void output(const Vector (&m)[6], Vector (&to)[4]) {
        const Vector even_a = m[1] + m[2], odd_a = a * (m[1] - m[2]);
        const Vector even_b = m[3] + m[4], odd_b = b * (m[3] - m[4]);
        to[0] = m[0] + even_a + even_b;
        to[1] = odd_a + odd_b;
        to[2] = aa * even_a + bb * even_b;
        to[3] = m[5] + aa * odd_a + bb * odd_b;
    }
    static void weights(const Vector (&g)[3], Vector (&to)[6]) {
        const Vector even_a = by_a * (g[0] + aa * g[2]), odd_a = by_a * a * g[1];
        const Vector even_b = by_b * (g[0] + bb * g[2]), odd_b = by_b * b * g[1];
        to[0] = by_zero * g[0];
        to[1] = even_a + odd_a;
        to[2] = even_a - odd_a;
        to[3] = even_b + odd_b;
        to[4] = even_b - odd_b;
        to[5] = g[2];
    }
    static void weights_back(const Vector (&m)[6], Vector (&to)[3]) {
        const Vector even_a = by_a * (m[1] + m[2]), odd_a = by_a * a * (m[1] - m[2]);
        const Vector even_b = by_b * (m[3] + m[4]), odd_b = by_b * b * (m[3] - m[4]);
        to[0] = by_zero * m[0] + even_a + even_b;
        to[1] = odd_a + odd_b;
        to[2] = m[5] + aa * even_a + bb * even_b;
    }
};

// Both directions of what is `from` x `from` at first and `to` x `to` in the end: `get(i, j)` gives a vector of row i,
// and `put(i, j, vector)` takes one.
template <int from, int to, typename OneWayFunction, typename Get, typename Put>
inline void transform(const OneWayFunction &one_way, const Get &get, const Put &put) {
    Vector columns[from][to];
#pragma GCC unroll 6
    for (int j = 0; j < from; ++j) {
        Vector column[from];
#pragma GCC unroll 6
        for (int i = 0; i < from; ++i) column[i] = get(i, j);
        one_way(column, columns[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < to; ++i) {
        Vector row[from], done[to];
#pragma GCC unroll 6
        for (int j = 0; j < from; ++j) row[j] = columns[j][i];
        one_way(row, done);
#pragma GCC unroll 6
        for (int j = 0; j < to; ++j) put(i, j, done[j]);
    }
}

// B^T d B. Two columns of a tile's pixels are the next tile's as well. `step`: from a tile to the next.
template <int side>
void transform_input(const Vector *pixels, const Patch &patch, float *to, int64_t step, int64_t stride) {
    constexpr int size = side + 2;
    const int64_t line = side * patch.columns + 2;
    for (int64_t row = 0; row < patch.rows; ++row) {
        const Vector *from = pixels + side * row * line;
        Vector columns[size][size];
        const auto read = [&](int first, int last) {
#pragma GCC unroll 4
            for (int j = first; j < last; ++j, ++from) {
                Vector column[size];
#pragma GCC unroll 6
                for (int i = 0; i < size; ++i) column[i] = from[i * line];
                OneWay<side>::input(column, columns[j]);
            }
        };
        read(0, 2);
        for (int64_t tile = 0; tile < patch.columns; ++tile, to += step) {
            read(2, size);
#pragma GCC unroll 6
            for (int i = 0; i < size; ++i) {
                Vector across[size], done[size];
#pragma GCC unroll 6
                for (int j = 0; j < size; ++j) across[j] = columns[j][i];
                OneWay<side>::input(across, done);
#pragma GCC unroll 6
                for (int j = 0; j < size; ++j) store(to + (size * i + j) * stride, done[j]);
                columns[0][i] = across[side];
                columns[1][i] = across[side + 1];
            }
        }
    }
}

// Calls `body` with the first pixel of each tile, and the number of the tile.
template <int side, typename Pixels, typename Body>
void for_each_tile(Pixels *pixels, const Patch &patch, const Body &body) {
    for (int64_t row = 0; row < patch.rows; ++row)
        for (int64_t tile = 0; tile < patch.columns; ++tile)
            body(pixels + side * (side * row * patch.columns + tile), row * patch.columns + tile);
}

// A dy A^T.
template <int side>
void transform_gradient(const Vector *pixels, const Patch &patch, float *to, int64_t step, int64_t stride) {
    const int64_t line = side * patch.columns;
    for_each_tile<side>(pixels, patch, [&](const Vector *from, int64_t tile) {
        transform<side, side + 2>(
            OneWay<side>::gradient, [&](int i, int j) { return from[i * line + j]; },
            [&](int i, int j, const Vector &value) { store(to + tile * step + ((side + 2) * i + j) * stride, value); });
    });
}

// A^T m A, and the bias.
template <int side>
void transform_output(const float *from, int64_t step, int64_t stride, const Vector &bias, const Patch &patch,
                      Vector *pixels) {
    const int64_t line = side * patch.columns;
    for_each_tile<side>(pixels, patch, [&](Vector *to, int64_t tile) {
        transform<side + 2, side>(
            OneWay<side>::output,
            [&](int i, int j) { return load(from + tile * step + ((side + 2) * i + j) * stride); },
            [&](int i, int j, const Vector &value) { to[i * line + j] = value + bias; });
    });
}

// G g G^T of nine vectors. `step`: 1, or -1 from the last one, for weights turned by half a turn.
template <int side>
inline void transform_weights(const Vector *weights, int64_t step, float *to, int64_t stride) {
    transform<3, side + 2>(
        OneWay<side>::weights, [&](int i, int j) { return weights[step * (3 * i + j)]; },
        [&](int i, int j, const Vector &value) { store(to + ((side + 2) * i + j) * stride, value); });
}

// G^T m G. `get`: the point (i, j).
template <int side, typename Get>
inline void transform_weights_back(const Get &get, Vector *weights) {
    transform<side + 2, 3>(
        OneWay<side>::weights_back, get, [&](int i, int j, const Vector &value) { weights[3 * i + j] = value; });
}

}  // namespace
