// Element by element: SiLU, values added to channels, transposition.

#include "native.h"

using namespace native;

// x -> x sigmoid(x)
OPERATOR(silu) {
    const auto *x = static_cast<const float *>(parameters[0]);
    auto *y = static_cast<float *>(parameters[1]);
    const int64_t size = count_of(shapes[0], axes[0]), blocks = (size + block - 1) / block;
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
    const int64_t size = count_of(shapes[1], axes[1]), blocks = (size + block - 1) / block;
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
    const int64_t bands = (columns + side - 1) / side;
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
