// The operators that MindSpore calls by name: aclopCompileAndExecuteV2.
#include "../aclop.h"

// What a tensor of axes or indices holds.
static Dims values(const T &t) { return load<int64_t>(&t); }
static int axis_of(const T &axes, const T &of) {
  int64_t axis = values(axes)[0];
  return axis < 0 ? axis + of.ndim : axis;
}
static void copy(const T &from, T &to) { store(&to, load<double>(&from)); }

// An assignment gives back its variable, in place or as a copy.
static void give_back(AclopCall &call) {
  T &variable = call.inputs[0];
  if (call.outputs.empty()) return;
  T &output = call.outputs[0];
  if (output.data && output.data != variable.data) copy(variable, output);
}
ACLOP(Assign, {
  T value = spread(&call.inputs[1], dims(&call.inputs[0]));
  copy(value, call.inputs[0]);
  give_back(call);
})
ACLOP(AssignAdd, {
  binary(&call.inputs[0], &call.inputs[1], &call.inputs[0], [](auto x, auto y) { return x + y; });
  give_back(call);
})
ACLOP(AssignSub, {
  binary(&call.inputs[0], &call.inputs[1], &call.inputs[0], [](auto x, auto y) { return x - y; });
  give_back(call);
})
ACLOP(AddN, {
  auto sum = load<float>(&call.inputs[0]);
  for (size_t i = 1; i < call.inputs.size(); i++) {
    auto term = load<float>(&call.inputs[i]);
    for (size_t j = 0; j < sum.size(); j++) sum[j] += term[j];
  }
  store(&call.outputs[0], sum);
})
// Kingma & Ba 2015, section 2. Inputs: weights, two moments, powers of beta1 and beta2, rate, beta1, beta2, epsilon,
// gradient.
ACLOP(ApplyAdamD, {
  auto weights = load<float>(&call.inputs[0]), moments1 = load<float>(&call.inputs[1]);
  auto moments2 = load<float>(&call.inputs[2]), gradient = load<float>(&call.inputs[9]);
  auto number = [&](int i) { return load<float>(&call.inputs[i])[0]; };
  float beta1 = number(6), beta2 = number(7), epsilon = number(8);
  float rate = number(5) * std::sqrt(1 - number(4)) / (1 - number(3));
  for (size_t i = 0; i < weights.size(); i++) {
    moments1[i] += (gradient[i] - moments1[i]) * (1 - beta1);
    moments2[i] += (gradient[i] * gradient[i] - moments2[i]) * (1 - beta2);
    weights[i] -= rate * moments1[i] / (std::sqrt(moments2[i]) + epsilon);
  }
  std::vector<float> *results[] = {&weights, &moments1, &moments2};
  for (size_t i = 0; i < 3; i++) {
    store(&call.inputs[i], *results[i]);
    if (i < call.outputs.size() && call.outputs[i].data) store(&call.outputs[i], *results[i]);
  }
})
ACLOP(Unpack, {
  int axis = call.attribute("axis") < 0 ? call.attribute("axis") + call.inputs[0].ndim : call.attribute("axis");
  for (size_t i = 0; i < call.outputs.size(); i++) {
    T one = part(&call.inputs[0], axis, i, 1);
    store(&call.outputs[i], load<double>(&one));
  }
})
ACLOP(Pack, {
  T &whole = call.outputs[0];
  int axis = call.attribute("axis") < 0 ? call.attribute("axis") + whole.ndim : call.attribute("axis");
  for (size_t i = 0; i < call.inputs.size(); i++) {
    T place = part(&whole, axis, i, 1);
    store(&place, load<double>(&call.inputs[i]));
  }
})
ACLOP(RealDiv, { binary(&call.inputs[0], &call.inputs[1], &call.outputs[0], [](auto x, auto y) { return x / y; }); })
ACLOP(TensorMove, { copy(call.inputs[0], call.outputs[0]); })
ACLOP(Identity, { copy(call.inputs[0], call.outputs[0]); })
ACLOP(ZerosLike, { store(&call.outputs[0], std::vector<float>(count(dims(&call.outputs[0])), 0.f)); })
ACLOP(OnesLike, { store(&call.outputs[0], std::vector<float>(count(dims(&call.outputs[0])), 1.f)); })

static std::vector<double> sum_over(const AclopCall &call) {
  return reduce(&call.inputs[0], values(call.inputs[1]), 0, [](double x, double y) { return x + y; });
}
ACLOP(ReduceSum, { store(&call.outputs[0], sum_over(call)); })
ACLOP(ReduceMean, {
  auto result = sum_over(call);
  double n = double(count(dims(&call.inputs[0]))) / result.size();
  for (auto &value : result) value /= n;
  store(&call.outputs[0], result);
})
ACLOP(Cumprod, {
  if (call.inputs[0].ndim != 1 || call.attribute("exclusive") || call.attribute("reverse"))
    throw NotProvided{"the stand-in's Cumprod takes one dimension, forwards and inclusive"};
  auto product = load<float>(&call.inputs[0]);
  for (size_t i = 1; i < product.size(); i++) product[i] *= product[i - 1];
  store(&call.outputs[0], product);
})

ACLOP(Split, {
  const T &whole = call.inputs[1];
  int axis = axis_of(call.inputs[0], whole);
  int64_t from = 0;
  for (auto &output : call.outputs) {
    copy(part(&whole, axis, from, output.dims[axis]), output);
    from += output.dims[axis];
  }
})
ACLOP(Slice, {
  T view = call.inputs[0];
  auto begin = values(call.inputs[1]);
  for (size_t i = 0; i < begin.size(); i++) view = part(&view, i, begin[i], call.outputs[0].dims[i]);
  copy(view, call.outputs[0]);
})
ACLOP(GatherV2, {
  const T &table = call.inputs[0];
  if (call.attribute("batch_dims")) throw NotProvided{"the stand-in's GatherV2 has no batch_dims"};
  int axis = axis_of(call.inputs[2], table);
  auto indices = values(call.inputs[1]);
  // The output's dimensions: those before the axis, those of the indices, those after it.
  int64_t outer = 1, inner = 1;
  for (int i = 0; i < axis; i++) outer *= table.dims[i];
  for (uint64_t i = axis + 1; i < table.ndim; i++) inner *= table.dims[i];
  auto from = load<double>(&table);
  std::vector<double> to;
  to.reserve(outer * indices.size() * inner);
  for (int64_t i = 0; i < outer; i++)
    for (int64_t index : indices) {
      check_index(index, table.dims[axis]);
      auto row = from.begin() + (i * table.dims[axis] + index) * inner;
      to.insert(to.end(), row, row + inner);
    }
  store(&call.outputs[0], to);
})

static bool has_bit(long mask, size_t bit) { return mask >> bit & 1; }

// TensorFlow's strided slice: masks say which entries of begin, end and strides mean something else.
// The part of `input` that they choose, as a view.
static T strided_view(const AclopCall &call, const T &input) {
  auto begin = values(call.inputs[1]), end = values(call.inputs[2]), step = values(call.inputs[3]);
  long begin_mask = call.attribute("begin_mask"), end_mask = call.attribute("end_mask"),
       ellipsis_mask = call.attribute("ellipsis_mask"), new_axis_mask = call.attribute("new_axis_mask"),
       shrink_axis_mask = call.attribute("shrink_axis_mask");
  T view = input;
  view.ndim = 0;
  auto append = [&](int64_t size, int64_t stride) {
    view.dims[view.ndim] = size;
    view.strides[view.ndim++] = stride;
  };
  uint64_t axis = 0; // of the input
  for (size_t i = 0; i < begin.size(); i++) {
    if (has_bit(ellipsis_mask, i)) { // every dimension that the entries after it leave
      uint64_t left = begin.size() - i - 1;
      for (size_t j = i + 1; j < begin.size(); j++) left -= has_bit(new_axis_mask, j);
      for (; axis < input.ndim - left; axis++) append(input.dims[axis], input.strides[axis]);
      continue;
    }
    if (has_bit(new_axis_mask, i)) {
      append(1, 0);
      continue;
    }
    int64_t size = input.dims[axis], stride = step[i];
    int64_t from = begin[i] < 0 ? begin[i] + size : begin[i], to = end[i] < 0 ? end[i] + size : end[i];
    if (has_bit(begin_mask, i)) from = stride > 0 ? 0 : size - 1;
    if (has_bit(end_mask, i)) to = stride > 0 ? size : -1;
    if (stride > 0) from = std::min(from, size), to = std::min(to, size);
    view.off += from * input.strides[axis];
    if (!has_bit(shrink_axis_mask, i)) {
      int64_t rounded = to - from + stride - (stride > 0 ? 1 : -1);
      append(std::max<int64_t>(0, rounded / stride), input.strides[axis] * stride);
    }
    axis++;
  }
  for (; axis < input.ndim; axis++) append(input.dims[axis], input.strides[axis]);
  return view;
}
static void check_size(const T &view, const T &other) {
  if (count(dims(&view)) != count(dims(&other)))
    throw NotProvided{"the stand-in's strided slice finds another shape:" + show(&view)};
}
ACLOP(StridedSlice, {
  T view = strided_view(call, call.inputs[0]);
  check_size(view, call.outputs[0]);
  copy(view, call.outputs[0]);
})
// Zeros, and the gradient where the slice was.
ACLOP(StridedSliceGrad, {
  T &output = call.outputs[0];
  store(&output, std::vector<double>(count(dims(&output)), 0.0));
  T view = strided_view(call, output);
  check_size(view, call.inputs[4]);
  copy(call.inputs[4], view);
})

// z = fn(x, y) on integers.
template <class Fn> static void bitwise(AclopCall &call, Fn fn) {
  T &output = call.outputs[0];
  T left = spread(&call.inputs[0], dims(&output)), right = spread(&call.inputs[1], dims(&output));
  auto x = load<int64_t>(&left), y = load<int64_t>(&right);
  for (size_t i = 0; i < x.size(); i++) x[i] = fn(x[i], y[i]);
  store(&output, x);
}
ACLOP(BitwiseAnd, { bitwise(call, [](int64_t x, int64_t y) { return x & y; }); })
ACLOP(BitwiseOr, { bitwise(call, [](int64_t x, int64_t y) { return x | y; }); })
ACLOP(BitwiseXor, { bitwise(call, [](int64_t x, int64_t y) { return x ^ y; }); })
ACLOP(RightShift, { bitwise(call, [](int64_t x, int64_t y) { return x >> y; }); }) // keeps the sign
ACLOP(LeftShift, { bitwise(call, [](int64_t x, int64_t y) { return x << y; }); })
ACLOP(Range, {
  double start = load<double>(&call.inputs[0])[0], step = load<double>(&call.inputs[2])[0];
  std::vector<double> elements(count(dims(&call.outputs[0])));
  for (size_t i = 0; i < elements.size(); i++) elements[i] = start + i * step;
  store(&call.outputs[0], elements);
})
ACLOP(Fill, {
  auto value = load<double>(&call.inputs[1]);
  store(&call.outputs[0], std::vector<double>(count(dims(&call.outputs[0])), value[0]));
})
// Over the dimensions from begin_norm_axis on; the third output is the variance.
ACLOP(LayerNorm, {
  const T &input = call.inputs[0];
  int64_t first = call.attribute("begin_norm_axis"), size = 1;
  for (uint64_t i = first < 0 ? first + input.ndim : first; i < input.ndim; i++) size *= input.dims[i];
  auto x = load<double>(&input), gamma = load<double>(&call.inputs[1]), beta = load<double>(&call.inputs[2]);
  std::vector<double> means, variances;
  for (size_t row = 0; row < x.size(); row += size) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < size; i++) mean += x[row + i] / size;
    for (int64_t i = 0; i < size; i++) variance += (x[row + i] - mean) * (x[row + i] - mean) / size;
    double rstd = 1 / std::sqrt(variance + call.attribute("epsilon", 1e-7));
    for (int64_t i = 0; i < size; i++) x[row + i] = (x[row + i] - mean) * rstd * gamma[i] + beta[i];
    means.push_back(mean), variances.push_back(variance);
  }
  store(&call.outputs[0], x);
  if (call.outputs[1].data) store(&call.outputs[1], means);
  if (call.outputs[2].data) store(&call.outputs[2], variances);
})

// Adds a value for each channel, the second dimension.
ACLOP(BiasAdd, {
  const T &input = call.inputs[0];
  auto x = load<double>(&input), bias = load<double>(&call.inputs[1]);
  size_t inner = 1;
  for (uint64_t i = 2; i < input.ndim; i++) inner *= input.dims[i];
  for (size_t i = 0; i < x.size(); i++) x[i] += bias[i / inner % bias.size()];
  store(&call.outputs[0], x);
})
// From y = sqrt(x) and the gradient of y.
ACLOP(SqrtGrad,
      { binary(&call.inputs[0], &call.inputs[1], &call.outputs[0], [](auto y, auto grad) { return grad / (2 * y); }); })
// The first index of the largest element along an axis.
ACLOP(ArgMaxV2, {
  const T &input = call.inputs[0];
  int axis = axis_of(call.inputs[1], input);
  auto x = load<double>(&input);
  int64_t inner = 1, n = input.dims[axis];
  for (uint64_t i = axis + 1; i < input.ndim; i++) inner *= input.dims[i];
  std::vector<int64_t> found(x.size() / n);
  for (size_t i = 0; i < found.size(); i++) {
    const double *row = &x[i / inner * n * inner + i % inner];
    for (int64_t k = 1; k < n; k++)
      if (row[k * inner] > row[found[i] * inner]) found[i] = k;
  }
  store(&call.outputs[0], found);
})
// Zeros around the input; a row of the paddings for each dimension.
ACLOP(Pad, {
  const T &input = call.inputs[0];
  T &output = call.outputs[0];
  store(&output, std::vector<double>(count(dims(&output)), 0.0));
  auto margins = values(call.inputs[1]);
  T inside = output;
  for (uint64_t i = 0; i < input.ndim; i++) inside = part(&inside, i, margins[2 * i], input.dims[i]);
  copy(input, inside);
})
// The last dimension of the indices says where in the first dimensions of the input.
ACLOP(GatherNd, {
  const T &input = call.inputs[0], &indices = call.inputs[1];
  int64_t depth = indices.dims[indices.ndim - 1], inner = 1;
  for (uint64_t i = depth; i < input.ndim; i++) inner *= input.dims[i];
  auto from = load<double>(&input);
  auto places = values(indices);
  std::vector<double> to;
  for (size_t i = 0; i < places.size(); i += depth) {
    int64_t row = 0;
    for (int64_t k = 0; k < depth; k++) row = row * input.dims[k] + places[i + k];
    to.insert(to.end(), from.begin() + row * inner, from.begin() + (row + 1) * inner);
  }
  store(&call.outputs[0], to);
})
