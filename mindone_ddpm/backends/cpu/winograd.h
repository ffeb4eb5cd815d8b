// Convolutions with 3x3 weights, stride 1 and padding 1 by Winograd's algorithms F(2x2, 3x3) and F(4x4, 3x3): for each pair
// of channels the 4 outputs of a tile from 16 products instead of 36, or the 16 outputs of a larger one from 36 products
// instead of 144 (Lavin and Gray 2016, sections 4.1 and 4.3).

#pragma once

#include "native.h"

namespace native __attribute__((visibility("hidden"))) {

// From (samples, channels, height, width) to (samples, outputs, height, width), in rows as MindSpore has them. Channels and
// outputs are multiples of 16.
struct WinogradShape {
    int64_t samples, channels, outputs, height, width;
    int64_t side;  // of a tile, in pixels: 2 or 4
    int64_t tiles() const { return samples * parts_of(height, side) * parts_of(width, side); }
    int64_t points() const { return (side + 2) * (side + 2); }  // of a tile, where channels are multiplied
    int64_t prepared_size() const { return points() * channels * outputs; }  // of the weights, in numbers
    WinogradShape turned() const { return {samples, outputs, channels, height, width, side}; }
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
