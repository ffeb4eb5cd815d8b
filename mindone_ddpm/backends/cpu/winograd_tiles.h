// The tiles of winograd.cpp: where they are, their pixels, and the transformations to their 16 points and back.

#pragma once

#include "native.h"
#include "vectors.h"
#include "winograd.h"

using namespace native;

namespace {

constexpr int64_t points = 16;
constexpr int64_t rows_at_once = 6, few_rows = 2;  // tiles in one step of a product

// Tiles, channels and outputs that fit into half of a core's cache of the second level, as it is mostly at least.
constexpr int64_t numbers_together = 1 << 18, most_tiles = 48;

// --- where the tiles are --------------------------------------------------------------------------------------------

// `rows` x `columns` tiles of 2 x 2 pixels in one sample.
struct Patch {
    int64_t sample, top, left, rows, columns;  // top and left in pixels
    int64_t tiles() const { return rows * columns; }
};

// How all tiles are divided into patches, and patches into blocks, each for one turn of a thread.
struct Division {
    const WinogradShape shape;
    int64_t high, wide, down, across, patches, patches_together, blocks, tiles_together;

    explicit Division(const WinogradShape &of) : shape(of) {
        const int64_t threads = pool->get_num_threads(), rows = parts_of(of.height, 2), columns = parts_of(of.width, 2);
        int64_t tiles = std::min(most_tiles, numbers_together / points / (of.channels + of.outputs));
        tiles = std::max(rows_at_once, std::min(tiles, parts_of(of.tiles(), threads)));
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
        return {number / across / down, 2 * row, 2 * column, std::min(high, parts_of(shape.height, 2) - row),
                std::min(wide, parts_of(shape.width, 2) - column)};
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
    int64_t pixels_size() const { return (2 * high + 2) * (2 * wide + 2) * lanes; }  // of 16 channels
    // Of one thread: points of the channels, points of the outputs, pixels.
    int64_t size() const { return points * (stride(shape.channels) + stride(shape.outputs)) + pixels_size(); }
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
    const int64_t rows = 2 * (patch.rows + border), columns = 2 * (patch.columns + border);
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
    const int64_t rows = std::min(2 * patch.rows, shape.height - patch.top);
    const int64_t columns = std::min(2 * patch.columns, shape.width - patch.left);
    float *image = images + (patch.sample * channels + channel) * area + patch.top * shape.width + patch.left;
    for (int64_t row = 0; row < rows; ++row, pixels += 2 * patch.columns)
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

// B^T d B. Four columns of pixels at a time, of which two are the next tile's as well. `step`: from a tile to the next.
void transform_input(const Vector *pixels, const Patch &patch, float *to, int64_t step, int64_t stride) {
    const int64_t line = 2 * (patch.columns + 1);
    for (int64_t row = 0; row < patch.rows; ++row) {
        const Vector *from = pixels + 2 * row * line;
        Vector columns[4][4];
        const auto read = [&](int number) {
            const Vector a = from[0], b = from[line], c = from[2 * line], d = from[3 * line];
            columns[number][0] = a - c;
            columns[number][1] = b + c;
            columns[number][2] = c - b;
            columns[number][3] = b - d;
            ++from;
        };
        read(0);
        read(1);
        for (int64_t tile = 0; tile < patch.columns; ++tile, to += step) {
            read(2);
            read(3);
            for (int i = 0; i < 4; ++i) {
                store(to + (4 * i) * stride, columns[0][i] - columns[2][i]);
                store(to + (4 * i + 1) * stride, columns[1][i] + columns[2][i]);
                store(to + (4 * i + 2) * stride, columns[2][i] - columns[1][i]);
                store(to + (4 * i + 3) * stride, columns[1][i] - columns[3][i]);
                columns[0][i] = columns[2][i];
                columns[1][i] = columns[3][i];
            }
        }
    }
}

// Calls `body` with the first pixel of each tile, and the number of the tile.
template <typename Pixels, typename Body>
void for_each_tile(Pixels *pixels, const Patch &patch, const Body &body) {
    for (int64_t row = 0; row < patch.rows; ++row)
        for (int64_t tile = 0; tile < patch.columns; ++tile)
            body(pixels + 4 * row * patch.columns + 2 * tile, row * patch.columns + tile);
}

// A dy A^T.
void transform_gradient(const Vector *pixels, const Patch &patch, float *to, int64_t step, int64_t stride) {
    const int64_t line = 2 * patch.columns;
    for_each_tile(pixels, patch, [&](const Vector *from, int64_t tile) {
        float *place = to + tile * step;
        const Vector a = from[0], b = from[1], c = from[line], d = from[line + 1];
        const Vector left[4] = {a, a + c, a - c, -c}, right[4] = {b, b + d, b - d, -d};
        for (int i = 0; i < 4; ++i) {
            store(place + (4 * i) * stride, left[i]);
            store(place + (4 * i + 1) * stride, left[i] + right[i]);
            store(place + (4 * i + 2) * stride, left[i] - right[i]);
            store(place + (4 * i + 3) * stride, -right[i]);
        }
    });
}

// A^T m A, and the bias: what is added to point (1, 1) is added to each pixel.
void transform_output(const float *from, int64_t step, int64_t stride, const Vector &bias, const Patch &patch,
                      Vector *pixels) {
    const int64_t line = 2 * patch.columns;
    for_each_tile(pixels, patch, [&](Vector *to, int64_t tile) {
        const float *place = from + tile * step;
        Vector upper[4], lower[4];
        for (int j = 0; j < 4; ++j) {
            const Vector a = load(place + j * stride);
            Vector b = load(place + (4 + j) * stride);
            if (j == 1) b += bias;
            const Vector c = load(place + (8 + j) * stride), d = load(place + (12 + j) * stride);
            upper[j] = a + b + c;
            lower[j] = b - c - d;
        }
        to[0] = upper[0] + upper[1] + upper[2];
        to[1] = upper[1] - upper[2] - upper[3];
        to[line] = lower[0] + lower[1] + lower[2];
        to[line + 1] = lower[1] - lower[2] - lower[3];
    });
}

// G g G^T of nine vectors. `step`: 1, or -1 from the last one, for weights turned by half a turn.
inline void transform_weights(const Vector *weights, int64_t step, float *to, int64_t stride) {
    Vector rows[4][3];
    for (int j = 0; j < 3; ++j) {
        const Vector a = weights[step * j], b = weights[step * (3 + j)], c = weights[step * (6 + j)];
        rows[0][j] = a;
        rows[1][j] = (a + b + c) * 0.5f;
        rows[2][j] = (a - b + c) * 0.5f;
        rows[3][j] = c;
    }
    for (int i = 0; i < 4; ++i) {
        const Vector a = rows[i][0], b = rows[i][1], c = rows[i][2];
        store(to + (4 * i) * stride, a);
        store(to + (4 * i + 1) * stride, (a + b + c) * 0.5f);
        store(to + (4 * i + 2) * stride, (a - b + c) * 0.5f);
        store(to + (4 * i + 3) * stride, c);
    }
}

// G^T m G.
inline void transform_weights_back(const Vector (&m)[points], Vector *weights) {
    Vector rows[3][4];
    for (int j = 0; j < 4; ++j) {
        const Vector plus = (m[4 + j] + m[8 + j]) * 0.5f, minus = (m[4 + j] - m[8 + j]) * 0.5f;
        rows[0][j] = m[j] + plus;
        rows[1][j] = minus;
        rows[2][j] = plus + m[12 + j];
    }
    for (int i = 0; i < 3; ++i) {
        const Vector plus = (rows[i][1] + rows[i][2]) * 0.5f, minus = (rows[i][1] - rows[i][2]) * 0.5f;
        weights[3 * i] = rows[i][0] + plus;
        weights[3 * i + 1] = minus;
        weights[3 * i + 2] = plus + rows[i][3];
    }
}

}  // namespace
