// GroupNorm, with SiLU behind it where it follows, and LayerNorm.

#include "native.h"

using namespace native;

// (x, gamma, beta, settings = (groups, epsilon, ends in x sigmoid(x))) -> y, mean, 1 / standard deviation, the last two of
// each sample's groups.
OPERATOR(group_norm) {
    const auto *x = static_cast<const float *>(parameters[0]), *gamma = static_cast<const float *>(parameters[1]);
    const auto *beta = static_cast<const float *>(parameters[2]), *settings = static_cast<const float *>(parameters[3]);
    auto *y = static_cast<float *>(parameters[4]), *means = static_cast<float *>(parameters[5]);
    auto *scales = static_cast<float *>(parameters[6]);
    const int64_t samples = shapes[0][0], channels = shapes[0][1], places = count_of(shapes[0] + 2, axes[0] - 2);
    const int64_t groups = static_cast<int64_t>(settings[0]), in_group = channels / groups, size = in_group * places;
    const bool activates = settings[2] != 0.0f;
    std::lock_guard<std::mutex> lock(turn);
    parallel(samples * groups, [&](int64_t item) {
        const float *from = x + item * size;
        float *to = y + item * size;
        const float mean = static_cast<float>(sum_of(from, size) / size);
        double squares = 0.0;
        for (int64_t start = 0; start < size; start += block) {
            const int64_t end = std::min(size, start + block);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += (from[i] - mean) * (from[i] - mean);
            squares += sum;
        }
        const float scale = static_cast<float>(1.0 / std::sqrt(squares / size + settings[1]));
        means[item] = mean;
        scales[item] = scale;
        for (int64_t part = 0; part < in_group; ++part) {
            const int64_t channel = item % groups * in_group + part;
            const float factor = scale * gamma[channel], shift = beta[channel] - mean * factor;
            const float *row = from + part * places;
            float *out = to + part * places;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] = row[i] * factor + shift;
            if (!activates) continue;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] *= sigmoid(out[i]);
        }
    });
    return 0;
}

// (gradient of y, x, gamma, mean, scale, settings) -> gradients of x, gamma and beta.
OPERATOR(group_norm_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    const auto *gamma = static_cast<const float *>(parameters[2]), *beta = static_cast<const float *>(parameters[3]);
    const auto *means = static_cast<const float *>(parameters[4]), *scales = static_cast<const float *>(parameters[5]);
    const auto *settings = static_cast<const float *>(parameters[6]);
    auto *dx = static_cast<float *>(parameters[7]), *dgamma = static_cast<float *>(parameters[8]);
    auto *dbeta = static_cast<float *>(parameters[9]);
    const int64_t samples = shapes[1][0], channels = shapes[1][1], places = count_of(shapes[1] + 2, axes[1] - 2);
    const int64_t groups = static_cast<int64_t>(settings[0]), in_group = channels / groups, size = in_group * places;
    std::lock_guard<std::mutex> lock(turn);
    const bool activates = settings[2] != 0.0f;
    auto *sums = reinterpret_cast<double *>(scratch(sizeof(double) * 2 * samples * channels));
    if (sums == nullptr) return 1;
    parallel(samples * groups, [&](int64_t item) {
        const int64_t sample = item / groups, first = item % groups * in_group;
        const float mean = means[item], scale = scales[item];
        double whole = 0.0, weighted = 0.0;  // sums of gamma dy and of gamma dy (x - mean) scale
        for (int64_t part = 0; part < in_group; ++part) {
            const float *g = dy + item * size + part * places, *row = x + item * size + part * places;
            const int64_t channel = first + part;
            if (activates) {  // the gradient before the activation, kept where the result will be
                const float factor = scale * gamma[channel], shift = beta[channel] - mean * factor;
                float *before = dx + item * size + part * places;
#pragma omp simd
                for (int64_t i = 0; i < places; ++i) {
                    const float value = row[i] * factor + shift, s = sigmoid(value);
                    before[i] = g[i] * (s * (1.0f + value * (1.0f - s)));
                }
                g = before;
            }
            double sum = 0.0, product = 0.0;
            for (int64_t start = 0; start < places; start += block) {
                const int64_t end = std::min(places, start + block);
                float partial = 0.0f, partial_product = 0.0f;
#pragma omp simd reduction(+ : partial, partial_product)
                for (int64_t i = start; i < end; ++i) {
                    partial += g[i];
                    partial_product += g[i] * (row[i] - mean);
                }
                sum += partial;
                product += partial_product;
            }
            product *= scale;
            sums[2 * (sample * channels + channel)] = sum;
            sums[2 * (sample * channels + channel) + 1] = product;
            whole += sum * gamma[channel];
            weighted += product * gamma[channel];
        }
        const float slope = static_cast<float>(-weighted / size) * scale * scale;
        const float level = static_cast<float>(-whole / size) * scale - slope * mean;
        for (int64_t part = 0; part < in_group; ++part) {
            const float *g = (activates ? dx : dy) + item * size + part * places;
            const float *row = x + item * size + part * places;
            float *out = dx + item * size + part * places;
            const float factor = gamma[first + part] * scale;
#pragma omp simd
            for (int64_t i = 0; i < places; ++i) out[i] = g[i] * factor + row[i] * slope + level;
        }
    });
    for (int64_t channel = 0; channel < channels; ++channel) {
        double sum = 0.0, product = 0.0;
        for (int64_t sample = 0; sample < samples; ++sample) {
            sum += sums[2 * (sample * channels + channel)];
            product += sums[2 * (sample * channels + channel) + 1];
        }
        dbeta[channel] = static_cast<float>(sum);
        dgamma[channel] = static_cast<float>(product);
    }
    return 0;
}

// (x (..., c), gamma (c), beta (c), epsilon) -> y, and each row's mean and 1 / standard deviation.
OPERATOR(layer_norm) {
    const auto *x = static_cast<const float *>(parameters[0]), *gamma = static_cast<const float *>(parameters[1]);
    const auto *beta = static_cast<const float *>(parameters[2]);
    const float epsilon = *static_cast<const float *>(parameters[3]);
    auto *y = static_cast<float *>(parameters[4]), *means = static_cast<float *>(parameters[5]);
    auto *scales = static_cast<float *>(parameters[6]);
    const int64_t width = shapes[1][0], rows = count_of(shapes[0], axes[0] - 1);
    std::lock_guard<std::mutex> lock(turn);
    parallel(parts_of(rows, rows_together), [&](int64_t number) {
        const int64_t end = std::min(rows, (number + 1) * rows_together);
        for (int64_t row = number * rows_together; row < end; ++row) {
            const float *from = x + row * width;
            float *to = y + row * width;
            double sum = 0.0, squares = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; ++i) sum += from[i];
            const float mean = static_cast<float>(sum / width);
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(from[i] - mean) * (from[i] - mean);
            const float scale = static_cast<float>(1.0 / std::sqrt(squares / width + epsilon));
#pragma omp simd
            for (int64_t i = 0; i < width; ++i) to[i] = (from[i] - mean) * scale * gamma[i] + beta[i];
            means[row] = mean;
            scales[row] = scale;
        }
    });
    return 0;
}

// (gradient of y, x, gamma, mean, scale) -> gradients of x, gamma and beta.
OPERATOR(layer_norm_backward) {
    const auto *dy = static_cast<const float *>(parameters[0]), *x = static_cast<const float *>(parameters[1]);
    const auto *gamma = static_cast<const float *>(parameters[2]), *means = static_cast<const float *>(parameters[3]);
    const auto *scales = static_cast<const float *>(parameters[4]);
    auto *dx = static_cast<float *>(parameters[5]), *dgamma = static_cast<float *>(parameters[6]);
    auto *dbeta = static_cast<float *>(parameters[7]);
    const int64_t width = shapes[2][0], rows = count_of(shapes[1], axes[1] - 1);
    std::lock_guard<std::mutex> lock(turn);
    parallel(parts_of(rows, rows_together), [&](int64_t number) {
        const int64_t end = std::min(rows, (number + 1) * rows_together);
        for (int64_t row = number * rows_together; row < end; ++row) {
            const float *g = dy + row * width, *from = x + row * width, mean = means[row], scale = scales[row];
            float *to = dx + row * width;
            double whole = 0.0, weighted = 0.0;  // sums of gamma dy and of gamma dy (x - mean)
#pragma omp simd reduction(+ : whole, weighted)
            for (int64_t i = 0; i < width; ++i) {
                const double part = static_cast<double>(g[i]) * gamma[i];
                whole += part;
                weighted += part * (from[i] - mean);
            }
            const float level = static_cast<float>(whole / width);
            const float slope = static_cast<float>(weighted / width) * scale * scale;
#pragma omp simd
            for (int64_t i = 0; i < width; ++i)
                to[i] = scale * (g[i] * gamma[i] - level - (from[i] - mean) * slope);
        }
    });
    parallel(parts_of(width, columns_together), [&](int64_t number) {
        const int64_t first = number * columns_together, columns = std::min(columns_together, width - first);
        double sums[columns_together] = {}, products[columns_together] = {};
        for (int64_t row = 0; row < rows; ++row) {
            const float *g = dy + row * width + first, *from = x + row * width + first;
            const float mean = means[row], scale = scales[row];
#pragma omp simd
            for (int64_t i = 0; i < columns; ++i) {
                sums[i] += g[i];
                products[i] += static_cast<double>(g[i]) * ((from[i] - mean) * scale);
            }
        }
        for (int64_t i = 0; i < columns; ++i) {
            dbeta[first + i] = static_cast<float>(sums[i]);
            dgamma[first + i] = static_cast<float>(products[i]);
        }
    });
    return 0;
}
