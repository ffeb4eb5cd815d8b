// Fused attention in the layouts BNSD, BSND, SBH and BSH: batch B, heads N, sequence S, head size D, H = N D.
#include "../tensors.h"

enum { STATISTICS = 8, BLOCK = 64 }; // copies of each row's maximum and sum; rows of the scores computed at once

// Where each head lies in a dense tensor.
struct Heads {
  int64_t batch, heads, length, size;
  int64_t batch_stride, head_stride, row_stride;

  int64_t first(int64_t b, int64_t head) const { return b * batch_stride + head * head_stride; }
};
static Heads heads_of(const T *t, const std::string &layout, int64_t heads) {
  const int64_t *d = t->dims;
  if (layout == "BNSD") return {d[0], d[1], d[2], d[3], d[1] * d[2] * d[3], d[2] * d[3], d[3]};
  if (layout == "BSND") return {d[0], d[2], d[1], d[3], d[1] * d[2] * d[3], d[3], d[2] * d[3]};
  int64_t size = d[2] / heads;
  if (layout == "BSH") return {d[0], heads, d[1], size, d[1] * d[2], size, d[2]};
  return {d[1], heads, d[0], size, d[2], size, d[1] * d[2]}; // SBH
}
// H of the keys is of their own number of heads, which have the queries' size.
static int64_t key_heads(const T *query, const T *key, const std::string &layout, int64_t heads) {
  if (layout == "BNSD") return key->dims[1];
  if (layout == "BSND") return key->dims[2];
  return key->dims[2] / (query->dims[2] / heads);
}

// What the documentation says beyond types and ranks.
static std::string wrong_attention(const T *query, const T *key, const T *value, const T *mask, double keep,
                                   int64_t heads, const std::string &layout, int64_t sparse_mode) {
  bool known = layout == "BNSD" || layout == "BSND" || layout == "BSH" || layout == "SBH";
  if (!known) return "inputLayout is " + layout + " and must be BSH, SBH, BSND or BNSD";
  uint64_t rank = layout.size();
  if (query->ndim != rank || key->ndim != rank || value->ndim != rank)
    return "query, key and value must have the dimensions of " + layout;
  if (heads < 1 || heads > 256) return "the number of heads must be 1 to 256";
  Heads q = heads_of(query, layout, heads);
  if (q.size < 1 || q.size > 768) return "the head size is " + std::to_string(q.size) + " and must be 1 to 768";
  int64_t n = key_heads(query, key, layout, heads);
  if (q.heads != heads) return "headNum must be the number of the query's heads";
  if (n < 1 || heads % n) return "the number of the query's heads must be a multiple of the key's";
  Heads k = heads_of(key, layout, n), v = heads_of(value, layout, n);
  if (q.batch != k.batch || q.batch != v.batch) return "query, key and value must have one batch size";
  if (k.length != v.length) return "key and value must have one length";
  if (q.size != k.size || v.size > k.size)
    return "the head sizes must be D of the query = D of the key >= D of the value";
  if (std::max(q.length, k.length) > 1 << 20) return "the sequence length must be 1 to 1M";
  if (keep <= 0 || keep > 1) return "keepProb must be above 0 and at most 1";
  if (sparse_mode < 0 || sparse_mode > 8) return "sparseMode must be 0 to 8";
  if (mask && sparse_mode < 2) { // the modes from 2 on take compressed masks
    Dims shape = dims(mask), full{q.batch, heads, q.length, k.length};
    bool fits = shape.size() == 2 || shape.size() == 4;
    for (size_t i = 1; fits && i <= shape.size(); i++)
      fits = shape[shape.size() - i] == full[4 - i] || (i > 2 && shape[shape.size() - i] == 1);
    if (!fits) return "attenMask must have the shape [B,N,S,S], [B,1,S,S], [1,1,S,S] or [S,S]";
  }
  return "";
}
static void provided(const T *shift, const T *dropout, int64_t sparse_mode, const Heads &query, const Heads &value) {
  if (shift || dropout || sparse_mode > 1 || query.size != value.size)
    throw NotProvided{"the stand-in's attention has no realShift, dropMask, sparseMode beyond 1 and smaller values"};
}

// One head as a dense (length, size) matrix, or its transpose; and back.
static std::vector<float> head(const std::vector<float> &from, const Heads &of, int64_t first) {
  std::vector<float> to(of.length * of.size);
  for (int64_t i = 0; i < of.length; i++) memcpy(&to[i * of.size], &from[first + i * of.row_stride], 4 * of.size);
  return to;
}
static std::vector<float> turned(const std::vector<float> &from, int64_t rows, int64_t columns) {
  std::vector<float> to(from.size());
  transpose(from.data(), to.data(), rows, columns);
  return to;
}
static void add_rows(const float *from, int64_t rows, float *to, const Heads &of) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < of.size; d++) to[i * of.row_stride + d] += from[i * of.size + d];
}

// The mask, broadcast to (batch, heads, rows of the query, rows of the key).
struct Mask {
  std::vector<float> elements;
  int64_t strides[4] = {0};

  Mask(const T *mask, const Heads &q, const Heads &k) {
    if (!mask) return;
    elements = load<float>(mask);
    T dense = *mask;
    int64_t stride = 1;
    for (int i = int(mask->ndim) - 1; i >= 0; i--) {
      dense.strides[i] = stride;
      stride *= mask->dims[i];
    }
    T all = spread(&dense, {q.batch, q.heads, q.length, k.length});
    memcpy(strides, all.strides, sizeof strides);
  }
  // Sets what is masked of a row of scores to `value`.
  void apply(float *row, int64_t n, int64_t b, int64_t head, int64_t i, float value) const {
    if (elements.empty()) return;
    const float *mask = &elements[b * strides[0] + head * strides[1] + i * strides[2]];
    for (int64_t j = 0; j < n; j++)
      if (mask[j * strides[3]] != 0) row[j] = value;
  }
};

// out = softmax(scale q k^T, masked) v; of each row of scores the maximum and the sum of exp(score - maximum) are kept.
CHECKED_KERNEL_WITH_TEXT(
    aclnnFlashAttentionScore,
    (const T *query, const T *key, const T *value, const T *realShift, const T *dropMask, const T *, const T *attenMask,
     const seq *, double scale, double keep, int64_t, int64_t, int64_t headNum, const char *inputLayout, int64_t,
     int64_t sparseMode, T *softmaxMax, T *softmaxSum, T *, T *attentionOut, PLAN),
    IN(query, key, value, realShift, dropMask, attenMask), OUT(softmaxMax, softmaxSum, attentionOut),
    wrong_attention(query, key, value, attenMask, keep, headNum, inputLayout, sparseMode), layout, inputLayout, {
      Heads q = heads_of(query, layout, headNum), k = heads_of(key, layout, key_heads(query, key, layout, headNum));
      Heads v = heads_of(value, layout, k.heads);
      provided(realShift, dropMask, sparseMode, q, v);
      auto queries = load<float>(query), keys = load<float>(key), values = load<float>(value);
      Mask mask(attenMask, q, k);
      std::vector<float> out(count(dims(attentionOut)), 0.f), scores(BLOCK * k.length), weighted(BLOCK * v.size);
      std::vector<float> maxima(q.batch * q.heads * q.length * STATISTICS), sums(maxima.size());
      for (int64_t b = 0; b < q.batch; b++)
        for (int64_t h = 0; h < q.heads; h++) {
          int64_t shared = h / (q.heads / k.heads); // the key head of several query heads
          auto one_query = head(queries, q, q.first(b, h)), one_value = head(values, v, v.first(b, shared));
          auto one_key = turned(head(keys, k, k.first(b, shared)), k.length, k.size);
          for (int64_t start = 0; start < q.length; start += BLOCK) {
            int64_t rows = std::min<int64_t>(BLOCK, q.length - start);
            gemm(&one_query[start * q.size], one_key.data(), scores.data(), rows, q.size, k.length);
            for (int64_t i = 0; i < rows; i++) {
              float *row = &scores[i * k.length], largest = -INFINITY, sum = 0;
              for (int64_t j = 0; j < k.length; j++) row[j] *= scale;
              mask.apply(row, k.length, b, h, start + i, -INFINITY);
              for (int64_t j = 0; j < k.length; j++) largest = std::max(largest, row[j]);
              for (int64_t j = 0; j < k.length; j++) sum += row[j] = std::exp(row[j] - largest);
              for (int64_t j = 0; j < k.length; j++) row[j] /= sum;
              int64_t at = ((b * q.heads + h) * q.length + start + i) * STATISTICS;
              std::fill_n(&maxima[at], STATISTICS, largest);
              std::fill_n(&sums[at], STATISTICS, sum);
            }
            gemm(scores.data(), one_value.data(), weighted.data(), rows, k.length, v.size);
            add_rows(weighted.data(), rows, &out[q.first(b, h) + start * q.row_stride], q);
          }
        }
      store(attentionOut, out);
      if (softmaxMax) store(softmaxMax, maxima);
      if (softmaxSum) store(softmaxSum, sums);
    })

// With p the softmax and o the output:
//   dv = p^T dy, ds = scale p (dy v^T - sum(dy o)), dq = ds k, dk = ds^T q.
CHECKED_KERNEL_WITH_TEXT(
    aclnnFlashAttentionScoreGrad,
    (const T *query, const T *key, const T *value, const T *dy, const T *realShift, const T *dropMask, const T *,
     const T *attenMask, const T *softmaxMax, const T *softmaxSum, const T *, const T *attentionIn, const seq *,
     double scale, double keep, int64_t, int64_t, int64_t headNum, const char *inputLayout, int64_t, int64_t sparseMode,
     T *dq, T *dk, T *dv, T *, PLAN),
    IN(query, key, value, dy, realShift, dropMask, attenMask, softmaxMax, softmaxSum, attentionIn), OUT(dq, dk, dv),
    wrong_attention(query, key, value, attenMask, keep, headNum, inputLayout, sparseMode), layout, inputLayout, {
      Heads q = heads_of(query, layout, headNum), k = heads_of(key, layout, key_heads(query, key, layout, headNum));
      Heads v = heads_of(value, layout, k.heads);
      provided(realShift, dropMask, sparseMode, q, v);
      auto queries = load<float>(query), keys = load<float>(key), values = load<float>(value);
      auto grads = load<float>(dy), outputs = load<float>(attentionIn);
      auto maxima = load<float>(softmaxMax), sums = load<float>(softmaxSum);
      Mask mask(attenMask, q, k);
      std::vector<float> grad_q(queries.size(), 0.f), grad_k(keys.size(), 0.f), grad_v(values.size(), 0.f);
      std::vector<float> p(BLOCK * k.length), ds(BLOCK * k.length), rows_q(BLOCK * q.size);
      for (int64_t b = 0; b < q.batch; b++)
        for (int64_t h = 0; h < q.heads; h++) {
          int64_t shared = h / (q.heads / k.heads), first_k = k.first(b, shared), first_v = v.first(b, shared);
          auto one_query = head(queries, q, q.first(b, h)), one_grad = head(grads, q, q.first(b, h));
          auto one_output = head(outputs, q, q.first(b, h)), one_key = head(keys, k, first_k);
          auto key_turned = turned(one_key, k.length, k.size);
          auto value_turned = turned(head(values, v, first_v), v.length, v.size);
          std::vector<float> sum_k(k.length * k.size, 0.f), sum_v(v.length * v.size, 0.f);
          for (int64_t start = 0; start < q.length; start += BLOCK) {
            int64_t rows = std::min<int64_t>(BLOCK, q.length - start);
            const float *block_q = &one_query[start * q.size], *block_grad = &one_grad[start * q.size];
            gemm(block_q, key_turned.data(), p.data(), rows, q.size, k.length);
            gemm(block_grad, value_turned.data(), ds.data(), rows, v.size, k.length);
            for (int64_t i = 0; i < rows; i++) {
              float *row = &p[i * k.length], dot = 0;
              int64_t at = ((b * q.heads + h) * q.length + start + i) * STATISTICS;
              for (int64_t j = 0; j < k.length; j++) row[j] = std::exp(row[j] * scale - maxima[at]) / sums[at];
              mask.apply(row, k.length, b, h, start + i, 0);
              for (int64_t d = 0; d < q.size; d++)
                dot += block_grad[i * q.size + d] * one_output[(start + i) * q.size + d];
              for (int64_t j = 0; j < k.length; j++)
                ds[i * k.length + j] = scale * row[j] * (ds[i * k.length + j] - dot);
            }
            gemm(ds.data(), one_key.data(), rows_q.data(), rows, k.length, k.size);
            add_rows(rows_q.data(), rows, &grad_q[q.first(b, h) + start * q.row_stride], q);
            std::vector<float> block(ds.begin(), ds.begin() + rows * k.length);
            gemm(turned(block, rows, k.length).data(), block_q, sum_k.data(), k.length, rows, q.size, true);
            block.assign(p.begin(), p.begin() + rows * k.length);
            gemm(turned(block, rows, k.length).data(), block_grad, sum_v.data(), k.length, rows, v.size, true);
          }
          add_rows(sum_k.data(), k.length, &grad_k[first_k], k);
          add_rows(sum_v.data(), v.length, &grad_v[first_v], v);
        }
      store(dq, grad_q);
      store(dk, grad_k);
      store(dv, grad_v);
    })
