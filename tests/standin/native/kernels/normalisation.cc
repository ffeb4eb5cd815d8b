// Group and layer normalisation, and their gradients: y = (x - mean) * rstd * weight + bias with
// rstd = 1 / sqrt(variance + eps).
#include "../tensors.h"

struct Moments {
  float mean, rstd;
};
static Moments moments(const float *x, int64_t n, double eps) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < n; i++) mean += x[i];
  mean /= n;
  for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean);
  return {float(mean), float(1 / std::sqrt(variance / n + eps))};
}
// A tensor that may not be given.
static std::vector<float> load_or(const T *t, int64_t n, float missing) {
  return t ? load<float>(t) : std::vector<float>(n, missing);
}

// The input is (samples, channels, pixels); each group of channels of a sample has its own moments.
KERNEL(aclnnGroupNorm,
       (const T *self, const T *gamma, const T *beta, int64_t samples, int64_t channels, int64_t pixels, int64_t groups,
        double eps, T *out, T *meanOut, T *rstdOut, PLAN),
       IN(self, gamma, beta), OUT(out, meanOut, rstdOut), {
         auto x = load<float>(self), weight = load_or(gamma, channels, 1), bias = load_or(beta, channels, 0);
         std::vector<float> means(samples * groups), rstds(samples * groups);
         int64_t in_group = channels / groups, n = in_group * pixels;
         for (int64_t i = 0; i < samples * groups; i++) {
           Moments m = moments(&x[i * n], n, eps);
           means[i] = m.mean, rstds[i] = m.rstd;
           for (int64_t j = 0; j < in_group; j++) {
             int64_t channel = i % groups * in_group + j;
             float *row = &x[i * n + j * pixels];
             for (int64_t p = 0; p < pixels; p++) row[p] = (row[p] - m.mean) * m.rstd * weight[channel] + bias[channel];
           }
         }
         store(out, x);
         store(meanOut, means);
         store(rstdOut, rstds);
       })

// With h = (x - mean) * rstd and d = grad * weight:
//   d weight = sum(grad * h), d bias = sum(grad), d x = rstd * (d - (sum(d) + h * sum(d * h)) / n) over the group.
KERNEL(aclnnGroupNormBackward,
       (const T *gradOut, const T *input, const T *mean, const T *rstd, const T *gamma, int64_t samples,
        int64_t channels, int64_t pixels, int64_t groups, const seq *, T *gradInput, T *gradGammaOut, T *gradBetaOut,
        PLAN),
       IN(gradOut, input, mean, rstd, gamma), OUT(gradInput, gradGammaOut, gradBetaOut), {
         auto grad = load<float>(gradOut), x = load<float>(input), means = load<float>(mean), rstds = load<float>(rstd),
              weight = load_or(gamma, channels, 1);
         std::vector<float> grad_x(x.size());
         std::vector<double> grad_weight(channels, 0), grad_bias(channels, 0);
         int64_t in_group = channels / groups, n = in_group * pixels;
         for (int64_t i = 0; i < samples * groups; i++) {
           float m = means[i], r = rstds[i];
           double sum_d = 0, sum_dh = 0;
           for (int64_t j = 0; j < in_group; j++) {
             int64_t channel = i % groups * in_group + j, row = i * n + j * pixels;
             double sum = 0, sum_h = 0; // of grad and grad * h
             for (int64_t p = row; p < row + pixels; p++) {
               sum += grad[p];
               sum_h += grad[p] * (x[p] - m) * r;
             }
             grad_weight[channel] += sum_h, grad_bias[channel] += sum;
             sum_d += sum * weight[channel], sum_dh += sum_h * weight[channel];
           }
           for (int64_t j = 0; j < in_group; j++) {
             float w = weight[i % groups * in_group + j];
             int64_t row = i * n + j * pixels;
             for (int64_t p = row; p < row + pixels; p++)
               grad_x[p] = r * (grad[p] * w - (sum_d + (x[p] - m) * r * sum_dh) / n);
           }
         }
         if (gradInput) store(gradInput, grad_x);
         if (gradGammaOut) store(gradGammaOut, grad_weight);
         if (gradBetaOut) store(gradBetaOut, grad_bias);
       })

// Over the last dimensions, whose sizes are normalizedShape.
KERNEL(aclnnLayerNorm,
       (const T *input, const seq *normalizedShape, const T *weightOptional, const T *biasOptional, double eps, T *out,
        T *meanOutOptional, T *rstdOutOptional, PLAN),
       IN(input, weightOptional, biasOptional), OUT(out, meanOutOptional, rstdOutOptional), {
         auto x = load<float>(input);
         int64_t n = count(ints(normalizedShape)), rows = x.size() / n;
         auto weight = load_or(weightOptional, n, 1), bias = load_or(biasOptional, n, 0);
         std::vector<float> means(rows), rstds(rows);
         for (int64_t i = 0; i < rows; i++) {
           float *row = &x[i * n];
           Moments m = moments(row, n, eps);
           means[i] = m.mean, rstds[i] = m.rstd;
           for (int64_t j = 0; j < n; j++) row[j] = (row[j] - m.mean) * m.rstd * weight[j] + bias[j];
         }
         store(out, x);
         if (meanOutOptional) store(meanOutOptional, means);
         if (rstdOutOptional) store(rstdOutOptional, rstds);
       })

KERNEL(aclnnLayerNormBackward,
       (const T *gradOut, const T *input, const seq *normalizedShape, const T *mean, const T *rstd,
        const T *weightOptional, const T *biasOptional, const seq *, T *gradInputOut, T *gradWeightOut, T *gradBiasOut,
        PLAN),
       IN(gradOut, input, mean, rstd, weightOptional, biasOptional), OUT(gradInputOut, gradWeightOut, gradBiasOut), {
         auto grad = load<float>(gradOut), x = load<float>(input), means = load<float>(mean), rstds = load<float>(rstd);
         int64_t n = count(ints(normalizedShape)), rows = x.size() / n;
         auto weight = load_or(weightOptional, n, 1);
         std::vector<double> grad_weight(n, 0), grad_bias(n, 0);
         for (int64_t i = 0; i < rows; i++) {
           float *row = &x[i * n], *row_grad = &grad[i * n];
           double sum_d = 0, sum_dh = 0; // of d = grad * weight and of d * h, where h is the normalised input
           for (int64_t j = 0; j < n; j++) {
             double h = (row[j] - means[i]) * rstds[i], d = double(row_grad[j]) * weight[j];
             sum_d += d, sum_dh += d * h;
             grad_weight[j] += row_grad[j] * h, grad_bias[j] += row_grad[j];
             row[j] = h;
           }
           for (int64_t j = 0; j < n; j++)
             row[j] = rstds[i] * (row_grad[j] * weight[j] - (sum_d + row[j] * sum_dh) / n);
         }
         if (gradInputOut) store(gradInputOut, x);
         if (gradWeightOut) store(gradWeightOut, grad_weight);
         if (gradBiasOut) store(gradBiasOut, grad_bias);
       })
