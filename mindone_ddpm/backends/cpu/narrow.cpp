// Attention with 16 queries, or 16 keys, in the lanes of a vector, and the rest in loops.

#include "narrow.h"
#include "vectors.h"

namespace native {

namespace {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

int64_t whole_blocks(int64_t count) { return parts_of(count, lanes) * lanes; }

// `columns` numbers, at most `width`, of each of some rows; times a factor.
template <int width>
void copy_rows(const float *from, int64_t from_stride, int64_t rows, int64_t columns, float factor, float *to,
               int64_t to_stride) {
    typedef float Row __attribute__((vector_size(4 * width)));
    for (int64_t row = 0; row < rows; ++row, from += from_stride, to += to_stride) {
        if (columns == width) {
            Row values;
            std::memcpy(&values, from, sizeof(values));
            values = factor * values;
            std::memcpy(to, &values, sizeof(values));
        } else {
            for (int64_t i = 0; i < columns; ++i) to[i] = factor * from[i];
        }
    }
}

// The rows of one head, one behind the other, with zeros behind each row and behind the last; times a factor.
template <int width>
void pack(const float *from, int64_t rows, int64_t stride, int64_t columns, float factor, float *to) {
    std::memset(to, 0, sizeof(float) * width * whole_blocks(rows));
    copy_rows<width>(from, stride, rows, columns, factor, to, width);
}

template <int width>
void unpack(const float *from, int64_t rows, int64_t stride, int64_t columns, float factor, float *to) {
    copy_rows<width>(from, width, rows, columns, factor, to, stride);
}

// 16 rows as `width` vectors: the first has the first number of each row. Numbers behind the last row are read too, and
// not used.
template <int width>
void to_lanes(const float *rows, Vector *columns) {
    Vector square[lanes];
    for (int lane = 0; lane < lanes; ++lane) square[lane] = load(rows + lane * width);
    swap_rows_and_columns(square);
    std::copy(square, square + width, columns);
}

template <int width>
void from_lanes(const Vector *columns, float *rows) {
    Vector square[lanes] = {};
    std::copy(columns, columns + width, square);
    swap_rows_and_columns(square);
    for (int lane = 0; lane < lanes; ++lane) std::memcpy(rows + lane * width, square + lane, sizeof(float) * width);
}

// Heads that lie in the same lines of the cache belong to one thread, and neighbours in time to different samples: two
// threads that write to one line wait for each other.
void for_each_head(const Attention &at, const std::function<void(int64_t, int64_t)> &body) {
    const int64_t together = std::max<int64_t>(1, lanes / at.width), parts = parts_of(at.heads, together);
    parallel(at.samples * parts, [&](int64_t item) {
        const int64_t first = item / at.samples * together;
        for (int64_t head = first; head < std::min(at.heads, first + together); ++head) body(item % at.samples, head);
    });
}

template <int width>
void attend_by_lanes(const Attention &at, float *out, float *logs) {
    const int64_t stride = at.heads * at.width, key_rows = whole_blocks(at.keys), query_rows = whole_blocks(at.queries);
    for_each_head(at, [&](int64_t sample, int64_t head) {
        const int64_t here = sample * at.queries * stride + head * at.width;
        const int64_t there = sample * at.keys * stride + head * at.width;
        float *k = thread_scratch((2 * key_rows + 2 * query_rows) * width + key_rows * lanes);
        float *v = k + key_rows * width, *q = v + key_rows * width, *y = q + query_rows * width;
        float *scores = y + query_rows * width;
        pack<width>(at.k + there, at.keys, stride, at.width, 1.0f, k);
        pack<width>(at.v + there, at.keys, stride, at.width, 1.0f, v);
        pack<width>(at.q + here, at.queries, stride, at.width, at.scale * log2_e, q);
        for (int64_t start = 0; start < at.queries; start += lanes) {
            Vector query[width], sums[width] = {}, total = {}, most = Vector{} - INFINITY;
            to_lanes<width>(q + start * width, query);
            for (int64_t key = 0; key < at.keys; ++key) {
                Vector score = query[0] * k[key * width];
                for (int i = 1; i < width; ++i) score += query[i] * k[key * width + i];
                store(scores + key * lanes, score);
                most = larger(most, score);
            }
            for (int64_t key = 0; key < at.keys; ++key) {
                const Vector share = power_of_two(load(scores + key * lanes) - most);
                total += share;
                for (int i = 0; i < width; ++i) sums[i] += share * v[key * width + i];
            }
            for (int i = 0; i < width; ++i) sums[i] /= total;
            from_lanes<width>(sums, y + start * width);
            for (int64_t lane = 0; lane < std::min(lanes, at.queries - start); ++lane)
                logs[(sample * at.queries + start + lane) * at.heads + head] =
                    most[lane] * ln_2 + std::log(total[lane]);
        }
        unpack<width>(y, at.queries, stride, at.width, 1.0f, out + here);
    });
}

template <int width>
void attend_by_lanes_backward(const Attention &at, const float *dout, const float *out, const float *logs, float *dq, float *dk,
              float *dv) {
    const int64_t stride = at.heads * at.width, key_rows = whole_blocks(at.keys), query_rows = whole_blocks(at.queries);
    for_each_head(at, [&](int64_t sample, int64_t head) {
        const int64_t here = sample * at.queries * stride + head * at.width;
        const int64_t there = sample * at.keys * stride + head * at.width;
        float *k = thread_scratch((4 * key_rows + 3 * query_rows) * width + 2 * query_rows);
        float *v = k + key_rows * width, *to_k = v + key_rows * width, *to_v = to_k + key_rows * width;
        float *q = to_v + key_rows * width, *g = q + query_rows * width, *to_q = g + query_rows * width;
        float *log = to_q + query_rows * width, *level = log + query_rows;
        pack<width>(at.k + there, at.keys, stride, at.width, 1.0f, k);
        pack<width>(at.v + there, at.keys, stride, at.width, 1.0f, v);
        pack<width>(at.q + here, at.queries, stride, at.width, at.scale * log2_e, q);
        pack<width>(dout + here, at.queries, stride, at.width, 1.0f, g);
        std::memset(to_q, 0, sizeof(float) * width * query_rows);
        for (int64_t query = 0; query < query_rows; ++query) {
            level[query] = 0.0f;
            log[query] = 1e30f;  // behind the last query: no share
            if (query >= at.queries) continue;
            log[query] = logs[(sample * at.queries + query) * at.heads + head] * log2_e;
            for (int64_t i = 0; i < at.width; ++i) level[query] += g[query * width + i] * out[here + query * stride + i];
        }
        for (int64_t start = 0; start < at.keys; start += lanes) {
            const int64_t keys = std::min(lanes, at.keys - start);
            Vector key[width], value[width], key_slopes[width] = {}, value_slopes[width] = {};
            to_lanes<width>(k + start * width, key);
            to_lanes<width>(v + start * width, value);
            for (int64_t first = 0; first < query_rows; first += lanes) {
                Vector shares[lanes], slopes[lanes];  // slopes: first a vector for each query, then one for each key
                // In two loops, because the registers hold half of the vectors.
                for (int64_t row = 0; row < lanes; ++row) {
                    const float *from = q + (first + row) * width, *gradient = g + (first + row) * width;
                    Vector score = key[0] * from[0] - log[first + row];
                    Vector slope = value[0] * gradient[0] - level[first + row];
                    for (int i = 1; i < width; ++i) score += key[i] * from[i];
                    for (int i = 1; i < width; ++i) slope += value[i] * gradient[i];
                    shares[row] = power_of_two(score);
                    slopes[row] = slope * shares[row];
                }
                for (int64_t row = 0; row < lanes; ++row) {
                    const float *from = q + (first + row) * width, *gradient = g + (first + row) * width;
                    for (int i = 0; i < width; ++i) value_slopes[i] += shares[row] * gradient[i];
                    for (int i = 0; i < width; ++i) key_slopes[i] += slopes[row] * from[i];
                }
                swap_rows_and_columns(slopes);
                Vector sums[width];
                for (int i = 0; i < width; ++i) sums[i] = load(to_q + first * width + i * lanes);
                for (int64_t place = 0; place < keys; ++place)
                    for (int i = 0; i < width; ++i) sums[i] += slopes[place] * k[(start + place) * width + i];
                for (int i = 0; i < width; ++i) store(to_q + first * width + i * lanes, sums[i]);
            }
            from_lanes<width>(key_slopes, to_k + start * width);
            from_lanes<width>(value_slopes, to_v + start * width);
        }
        for (int64_t first = 0; first < query_rows; first += lanes) {
            Vector sums[width];
            for (int i = 0; i < width; ++i) sums[i] = load(to_q + first * width + i * lanes);
            from_lanes<width>(sums, to_q + first * width);
        }
        unpack<width>(to_q, at.queries, stride, at.width, at.scale, dq + here);
        unpack<width>(to_k, at.keys, stride, at.width, ln_2, dk + there);
        unpack<width>(to_v, at.keys, stride, at.width, 1.0f, dv + there);
    });
}

}  // namespace

void attend_narrow(const Attention &problem, float *out, float *logs) {
    (problem.width <= 8 ? attend_by_lanes<8> : attend_by_lanes<16>)(problem, out, logs);
}

void attend_narrow_backward(const Attention &problem, const float *dout, const float *out, const float *logs, float *dq,
                            float *dk, float *dv) {
    attend_by_lanes_backward<most_narrow_backward>(problem, dout, out, logs, dq, dk, dv);
}

}  // namespace native
