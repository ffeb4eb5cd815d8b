// Convolutions with 3x3 weights, stride 1 and padding 1 by Winograd's algorithm F(2x2, 3x3): the four outputs of a tile
// from sixteen products for each pair of channels, instead of thirty-six (Lavin and Gray 2016, section 4.1).

#pragma once

#include <cstddef>
#include <cstdint>

namespace native __attribute__((visibility("hidden"))) {

// From (samples, channels, height, width) to (samples, outputs, height, width), in rows as MindSpore has them. Channels and
// outputs are multiples of 16.
struct WinogradShape {
    int64_t samples, channels, outputs, height, width;
    int64_t tiles() const { return samples * ((height + 1) / 2) * ((width + 1) / 2); }
    int64_t prepared_size() const { return 16 * channels * outputs; }  // of the weights, in numbers
    WinogradShape turned() const { return {samples, outputs, channels, height, width}; }
};

// Weights (outputs, channels, 3, 3) for winograd_convolve; and those of the gradient of the input, whose shape is the
// turned one.
void winograd_prepare(const float *weights, const WinogradShape &shape, float *prepared);
void winograd_prepare_turned(const float *weights, const WinogradShape &shape, float *prepared);

// Numbers of memory that the two below need.
size_t winograd_memory(const WinogradShape &shape);
size_t winograd_memory_to_weights(const WinogradShape &shape);

// `bias` may be nullptr.
void winograd_convolve(const float *x, const float *prepared, const float *bias, float *y, const WinogradShape &shape,
                       float *memory);
// Gradients of the weights and, unless it is nullptr, of the bias.
void winograd_to_weights(const float *dy, const float *x, float *dweights, float *dbias, const WinogradShape &shape,
                         float *memory);

}  // namespace native
