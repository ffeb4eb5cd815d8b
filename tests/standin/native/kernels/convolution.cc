// Convolution in two dimensions and its gradients, as products with the matrix of columns: each column holds the
// input pixels that one output pixel sees.
#include "../tensors.h"

struct Shape {
  int64_t samples, channels, height, width; // of the input
  int64_t filters, kernel_h, kernel_w, out_h, out_w;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;

  int64_t in_group() const { return channels / groups; }
  int64_t filters_in_group() const { return filters / groups; }
  int64_t rows() const { return in_group() * kernel_h * kernel_w; } // of the matrix of columns
  int64_t pixels() const { return out_h * out_w; }
};
// Padding is (height, width), or (top, bottom, left, right).
static Shape shape_of(const T *input, const T *weight, const T *output, const seq *stride, const seq *padding,
                      const seq *dilation, int64_t groups) {
  auto s = ints(stride), p = ints(padding), d = ints(dilation);
  return {input->dims[0],  input->dims[1],
          input->dims[2],  input->dims[3],
          weight->dims[0], weight->dims[2],
          weight->dims[3], output->dims[2],
          output->dims[3], s[0],
          s.back(),        p[0],
          p[p.size() / 2], d[0],
          d.back(),        groups};
}

// Calls fn(pixel of the input, first column, step, how many) for each row of the matrix and line of the output, with
// null for pixels of the padding.
template <class P, class Fn> static void columns(const Shape &c, P *image, Fn fn) {
  for (int64_t row = 0; row < c.rows(); row++) {
    P *plane = image + row / (c.kernel_h * c.kernel_w) * c.height * c.width;
    int64_t kernel_y = row / c.kernel_w % c.kernel_h, kernel_x = row % c.kernel_w;
    for (int64_t y = 0; y < c.out_h; y++) {
      int64_t in_y = y * c.stride_h - c.pad_top + kernel_y * c.dilation_h;
      int64_t in_x = kernel_x * c.dilation_w - c.pad_left;
      bool outside = in_y < 0 || in_y >= c.height;
      fn(row, y * c.out_w, outside ? nullptr : plane + in_y * c.width, in_x);
    }
  }
}
static void gather_columns(const Shape &c, const float *image, float *matrix) {
  columns(c, image, [&](int64_t row, int64_t column, const float *line, int64_t in_x) {
    float *to = matrix + row * c.pixels() + column;
    for (int64_t x = 0; x < c.out_w; x++, in_x += c.stride_w)
      to[x] = line && in_x >= 0 && in_x < c.width ? line[in_x] : 0;
  });
}
static void add_columns(const Shape &c, const float *matrix, float *image) {
  columns(c, image, [&](int64_t row, int64_t column, float *line, int64_t in_x) {
    if (!line) return;
    const float *from = matrix + row * c.pixels() + column;
    for (int64_t x = 0; x < c.out_w; x++, in_x += c.stride_w)
      if (in_x >= 0 && in_x < c.width) line[in_x] += from[x];
  });
}

// What the documentation of both says about Atlas A2, beyond types and ranks.
static std::string wrong_convolution(const T *input, const T *weight, const seq *stride, const seq *padding,
                                     const seq *dilation, bool transposed, int64_t groups) {
  size_t spatial = input->ndim - 2;
  auto in_range = [](const Dims &values, int64_t low, int64_t high) {
    return std::all_of(values.begin(), values.end(), [=](int64_t v) { return v >= low && v <= high; });
  };
  if (ints(stride).size() != spatial || !in_range(ints(stride), 1, INT64_MAX))
    return "stride must be positive, one per dimension";
  if (ints(dilation).size() != spatial || !in_range(ints(dilation), 1, 255))
    return "dilation must be 1 to 255, one per dimension";
  if (!in_range(ints(padding), 0, 255)) return "padding must be 0 to 255";
  if (groups < 1 || groups > 65535) return "groups must be 1 to 65535";
  if (!transposed && groups * weight->dims[1] != input->dims[1])
    return "groups times the weight's channels must be the input's channels";
  for (const T *t : {input, weight})
    if (!in_range(dims(t), 0, 1000000)) return "no dimension may be larger than 1000000";
  return "";
}
static void only_2d(const T *input, bool transposed) {
  if (transposed || input->ndim != 4) throw NotProvided{"the stand-in has only 2D convolution that is not transposed"};
}

CHECKED_KERNEL(aclnnConvolution,
               (const T *input, const T *weight, const T *bias, const seq *stride, const seq *padding,
                const seq *dilation, bool transposed, const seq *, int64_t groups, T *output, int8_t, PLAN),
               IN(input, weight, bias), OUT(output),
               wrong_convolution(input, weight, stride, padding, dilation, transposed, groups), {
                 only_2d(input, transposed);
                 Shape c = shape_of(input, weight, output, stride, padding, dilation, groups);
                 auto x = load<float>(input), w = load<float>(weight);
                 auto added = bias ? load<float>(bias) : std::vector<float>(c.filters, 0.f);
                 int64_t plane = c.height * c.width, filters = c.filters_in_group();
                 std::vector<float> matrix(c.rows() * c.pixels()), y(c.samples * c.filters * c.pixels());
                 for (int64_t i = 0; i < c.samples; i++)
                   for (int64_t g = 0; g < groups; g++) {
                     gather_columns(c, &x[(i * c.channels + g * c.in_group()) * plane], matrix.data());
                     float *to = &y[(i * c.filters + g * filters) * c.pixels()];
                     gemm(&w[g * filters * c.rows()], matrix.data(), to, filters, c.rows(), c.pixels());
                     for (int64_t f = 0; f < filters; f++)
                       for (int64_t p = 0; p < c.pixels(); p++) to[f * c.pixels() + p] += added[g * filters + f];
                   }
                 store(output, y);
               })

CHECKED_KERNEL(aclnnConvolutionBackward,
               (const T *gradOutput, const T *input, const T *weight, const seq *, const seq *stride,
                const seq *padding, const seq *dilation, bool transposed, const seq *, int64_t groups,
                const seq *outputMask, int8_t, T *gradInput, T *gradWeight, T *gradBias, PLAN),
               IN(gradOutput, input, weight), OUT(gradInput, gradWeight, gradBias),
               wrong_convolution(input, weight, stride, padding, dilation, transposed, groups), {
                 only_2d(input, transposed);
                 Shape c = shape_of(input, weight, gradOutput, stride, padding, dilation, groups);
                 bool wants_input = outputMask->data[0] && gradInput, wants_weight = outputMask->data[1] && gradWeight,
                      wants_bias = outputMask->data[2] && gradBias;
                 auto x = load<float>(input), w = load<float>(weight), grad = load<float>(gradOutput);
                 int64_t plane = c.height * c.width, filters = c.filters_in_group(), rows = c.rows(),
                         pixels = c.pixels();
                 std::vector<float> matrix(rows * pixels), turned(rows * std::max(pixels, filters));
                 std::vector<float> grad_x(x.size(), 0.f), grad_w(w.size(), 0.f), grad_b(c.filters, 0.f);
                 for (int64_t i = 0; i < c.samples; i++)
                   for (int64_t g = 0; g < groups; g++) {
                     int64_t first_input = (i * c.channels + g * c.in_group()) * plane,
                             first_weight = g * filters * rows;
                     const float *grad_y = &grad[(i * c.filters + g * filters) * pixels];
                     if (wants_weight) { // grad_y columns^T
                       gather_columns(c, &x[first_input], matrix.data());
                       transpose(matrix.data(), turned.data(), rows, pixels);
                       gemm(grad_y, turned.data(), &grad_w[first_weight], filters, pixels, rows, true);
                     }
                     if (wants_input) { // weight^T grad_y, added back to the pixels that each column came from
                       transpose(&w[first_weight], turned.data(), filters, rows);
                       gemm(turned.data(), grad_y, matrix.data(), rows, filters, pixels);
                       add_columns(c, matrix.data(), &grad_x[first_input]);
                     }
                     if (wants_bias)
                       for (int64_t f = 0; f < filters; f++)
                         for (int64_t p = 0; p < pixels; p++) grad_b[g * filters + f] += grad_y[f * pixels + p];
                   }
                 if (wants_input) store(gradInput, grad_x);
                 if (wants_weight) store(gradWeight, grad_w);
                 if (wants_bias) store(gradBias, grad_b);
               })
