// Attention of heads of at most 16 numbers, where a matrix product has too little to do for each number that it reads.

#pragma once

#include "native.h"

namespace native __attribute__((visibility("hidden"))) {

constexpr int64_t most_narrow = 16, most_narrow_backward = 8;  // beyond, products are faster

struct Attention {
    int64_t samples, queries, keys, heads, width;
    float scale;
    // Of shapes (samples, queries or keys, heads, width); `logs` has one number for each head of each query.
    const float *q, *k, *v;
};

void attend_narrow(const Attention &problem, float *out, float *logs);
void attend_narrow_backward(const Attention &problem, const float *dout, const float *out, const float *logs, float *dq,
                            float *dk, float *dv);

// Memory of this thread, valid until its next call; aligned for vectors.
float *thread_scratch(size_t floats);

}  // namespace native
