// What an update does with all parameters at once: the norm and scaling of gradients, moving averages, AdamW.

#include <vector>

#include "native.h"

using namespace native;

namespace {

struct Piece {
    int tensor;
    int64_t start, end;
};

std::vector<Piece> pieces_of(int count, int *axes, int64_t **shapes) {
    constexpr int64_t most = 16 * block;
    std::vector<Piece> pieces;
    for (int tensor = 0; tensor < count; ++tensor) {
        const int64_t size = count_of(shapes[tensor], axes[tensor]);
        for (int64_t start = 0; start < size; start += most)
            pieces.push_back({tensor, start, std::min(size, start + most)});
    }
    return pieces;
}

// body(number of a tensor, start, end) for all of the first tensors, piece by piece.
template <typename Body>
void for_pieces(int tensors, int *axes, int64_t **shapes, Body body) {
    const std::vector<Piece> pieces = pieces_of(tensors, axes, shapes);
    std::lock_guard<std::mutex> lock(turn);
    parallel(static_cast<int64_t>(pieces.size()),
             [&](int64_t number) { body(pieces[number].tensor, pieces[number].start, pieces[number].end); });
}

}  // namespace

// any number of tensors -> the sum of all their squares, of shape (1,): infinite or NaN where an element is.
OPERATOR(sum_of_squares) {
    const std::vector<Piece> pieces = pieces_of(count - 1, axes, shapes);
    std::vector<double> sums(pieces.size());
    std::lock_guard<std::mutex> lock(turn);
    parallel(static_cast<int64_t>(pieces.size()), [&](int64_t number) {
        const Piece &piece = pieces[number];
        const auto *values = static_cast<const float *>(parameters[piece.tensor]);
        double total = 0.0;
        for (int64_t start = piece.start; start < piece.end; start += block) {
            const int64_t end = std::min(piece.end, start + block);
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += static_cast<double>(values[i]) * values[i];
            total += sum;
        }
        sums[number] = total;
    });
    double total = 0.0;
    for (double sum : sums) total += sum;
    *static_cast<float *>(parameters[count - 1]) = static_cast<float>(total);
    return 0;
}

// (coefficient, tensors...) -> tensors times it; zeros where the coefficient is 0, whatever the tensors hold.
OPERATOR(scale_all) {
    const int tensors = (count - 1) / 2;
    const float coefficient = *static_cast<const float *>(parameters[0]);
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        const auto *from = static_cast<const float *>(parameters[1 + tensor]);
        auto *to = static_cast<float *>(parameters[1 + tensors + tensor]);
        if (coefficient == 0.0f) {
            std::fill(to + start, to + end, 0.0f);
            return;
        }
#pragma omp simd
        for (int64_t i = start; i < end; ++i) to[i] = from[i] * coefficient;
    });
    return 0;
}

// (share, averages..., parameters...) -> the averages, in place, moved by the share of the way to their parameters; the
// result only says when. A share of 0 touches nothing.
OPERATOR(move_averages) {
    const int tensors = (count - 2) / 2;
    const float share = *static_cast<const float *>(parameters[0]);
    *static_cast<float *>(parameters[count - 1]) = share;
    if (share == 0.0f) return 0;
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        auto *average = static_cast<float *>(parameters[1 + tensor]);
        const auto *parameter = static_cast<const float *>(parameters[1 + tensors + tensor]);
#pragma omp simd
        for (int64_t i = start; i < end; ++i) average[i] -= share * (average[i] - parameter[i]);
    });
    return 0;
}

// (learning rate, beta1, beta2, epsilon and weight decay as one tensor; parameters..., first moments..., second
// moments..., gradients...) -> AdamW's update of all parameters and moments, in place (Loshchilov & Hutter 2019, algorithm
// 2, without bias correction); the result only says when.
OPERATOR(adam) {
    const int tensors = (count - 2) / 4;
    const auto *numbers = static_cast<const float *>(parameters[0]);
    const float learning_rate = numbers[0], beta1 = numbers[1], beta2 = numbers[2], epsilon = numbers[3];
    const float decay = numbers[4];
    *static_cast<float *>(parameters[count - 1]) = learning_rate;
    for_pieces(tensors, axes + 1, shapes + 1, [&](int tensor, int64_t start, int64_t end) {
        auto *parameter = static_cast<float *>(parameters[1 + tensor]);
        auto *first = static_cast<float *>(parameters[1 + tensors + tensor]);
        auto *second = static_cast<float *>(parameters[1 + 2 * tensors + tensor]);
        const auto *gradient = static_cast<const float *>(parameters[1 + 3 * tensors + tensor]);
#pragma omp simd
        for (int64_t i = start; i < end; ++i) {
            const float g = gradient[i];
            const float m = beta1 * first[i] + (1.0f - beta1) * g, v = beta2 * second[i] + (1.0f - beta2) * g * g;
            first[i] = m;
            second[i] = v;
            parameter[i] -= learning_rate * (m / (std::sqrt(v) + epsilon) + decay * parameter[i]);
        }
    });
    return 0;
}
