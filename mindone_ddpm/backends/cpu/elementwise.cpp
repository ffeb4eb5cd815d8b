// Element by element: SiLU, values added to channels, transposition, and what a UNet does between its blocks.

#include "native.h"

using namespace native;

// x -> x sigmoid(x)
OPERATOR(silu) {
    const auto *x = static_cast<const float *>(parameters[0]);
    auto *y = static_cast<float *>(parameters[1]);
    const int64_t size = count_of(shapes[0], axes[0]), blocks = parts_of(size, block);
    std::lock_guard<std::mutex> lock(turn);
    parallel(blocks, [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) y[i] = x[i] * sigmoid(x[i]);
    });
    return 0;
}

// (gradient of y, x) -> gradient of x
OPERATOR(silu_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    auto *dx = static_cast<float *>(parameters[2]);
    const int64_t size = count_of(shapes[1], axes[1]), blocks = parts_of(size, block);
    std::lock_guard<std::mutex> lock(turn);
    parallel(blocks, [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) {
            const float s = sigmoid(x[i]);
            dx[i] = dy[i] * (s * (1.0f + x[i] * (1.0f - s)));
        }
    });
    return 0;
}

// (x (n, c, ...), t (n, c)) -> x + t, each number of t on a whole channel
OPERATOR(add_to_channels) {
    const auto *x = static_cast<const float *>(parameters[0]), *t = static_cast<const float *>(parameters[1]);
    auto *y = static_cast<float *>(parameters[2]);
    const int64_t channels = count_of(shapes[1], axes[1]), places = count_of(shapes[0] + 2, axes[0] - 2);
    std::lock_guard<std::mutex> lock(turn);
    parallel(channels, [&](int64_t channel) {
        const float *from = x + channel * places, more = t[channel];
        float *to = y + channel * places;
#pragma omp simd
        for (int64_t i = 0; i < places; ++i) to[i] = from[i] + more;
    });
    return 0;
}

// (gradient of y (n, c, ...), t) -> gradient of t: the sum of each channel
OPERATOR(sum_of_channels) {
    const auto *dy = static_cast<const float *>(parameters[0]);
    auto *dt = static_cast<float *>(parameters[2]);
    const int64_t channels = count_of(shapes[1], axes[1]), places = count_of(shapes[0] + 2, axes[0] - 2);
    std::lock_guard<std::mutex> lock(turn);
    parallel(channels, [&](int64_t channel) {
        dt[channel] = static_cast<float>(sum_of(dy + channel * places, places));
    });
    return 0;
}

// (n, r, c) -> (n, c, r)
OPERATOR(transpose) {
    const auto *x = static_cast<const float *>(parameters[0]);
    auto *y = static_cast<float *>(parameters[1]);
    const int64_t samples = shapes[0][0], rows = shapes[0][1], columns = shapes[0][2];
    constexpr int64_t side = 16;
    const int64_t bands = parts_of(columns, side);
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * bands, [&](int64_t item) {
        const int64_t first = item % bands * side, last = std::min(columns, first + side);
        const float *from = x + item / bands * rows * columns;
        float *to = y + item / bands * rows * columns;
        for (int64_t start = 0; start < rows; start += side) {
            const int64_t end = std::min(rows, start + side);
            for (int64_t column = first; column < last; ++column)
                for (int64_t row = start; row < end; ++row) to[column * rows + row] = from[row * columns + column];
        }
    });
    return 0;
}

void native::add_to(void *to, const void *more, int64_t size) {
    auto *result = static_cast<float *>(to);
    const auto *values = static_cast<const float *>(more);
    const Clock clock("add");
    std::lock_guard<std::mutex> lock(turn);
    parallel(parts_of(size, block), [&](int64_t number) {
        const int64_t end = std::min(size, (number + 1) * block);
#pragma omp simd
        for (int64_t i = number * block; i < end; ++i) result[i] += values[i];
    });
}

void native::join(const float *first, int64_t a, const float *second, int64_t b, int64_t rows, float *both) {
    const Clock clock("join");
    std::lock_guard<std::mutex> lock(turn);
    parallel(2 * rows, [&](int64_t item) {
        const int64_t row = item / 2;
        if (item % 2 == 0)
            std::copy(first + row * a, first + (row + 1) * a, both + row * (a + b));
        else
            std::copy(second + row * b, second + (row + 1) * b, both + row * (a + b) + a);
    });
}

void native::separate(const float *both, int64_t a, int64_t b, int64_t rows, float *first, float *second) {
    const Clock clock("separate");
    std::lock_guard<std::mutex> lock(turn);
    parallel(2 * rows, [&](int64_t item) {
        const int64_t row = item / 2;
        const float *from = both + row * (a + b);
        if (item % 2 == 0)
            std::copy(from, from + a, first + row * a);
        else
            std::copy(from + a, from + a + b, second + row * b);
    });
}

void native::enlarge(const float *x, const int64_t *shape, float *y) {
    const Clock clock("enlarge");
    const int64_t height = shape[2], width = shape[3];
    std::lock_guard<std::mutex> lock(turn);
    parallel(shape[0] * shape[1], [&](int64_t image) {
        for (int64_t row = 0; row < height; ++row) {
            const float *from = x + (image * height + row) * width;
            float *to = y + (image * height + row) * 4 * width;
            for (int64_t i = 0; i < width; ++i) to[2 * i] = to[2 * i + 1] = from[i];
            std::copy(to, to + 2 * width, to + 2 * width);
        }
    });
}

void native::reduce(const float *dy, const int64_t *shape, float *dx) {
    const Clock clock("reduce");
    const int64_t height = shape[2], width = shape[3];
    std::lock_guard<std::mutex> lock(turn);
    parallel(shape[0] * shape[1], [&](int64_t image) {
        for (int64_t row = 0; row < height; ++row) {
            const float *from = dy + (image * height + row) * 4 * width, *below = from + 2 * width;
            float *to = dx + (image * height + row) * width;
            for (int64_t i = 0; i < width; ++i)
                to[i] = (from[2 * i] + from[2 * i + 1]) + (below[2 * i] + below[2 * i + 1]);
        }
    });
}
