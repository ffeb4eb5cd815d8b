// Operators that move, select or make elements.
#include "../tensors.h"
#include <random>

static void copy(const T &from, T &to) { store(&to, load<double>(&from)); }

KERNEL(aclnnPermute, (const T *self, const seq *order, T *out, PLAN), IN(self), OUT(out), {
  T view = *self;
  auto axes = ints(order);
  for (size_t i = 0; i < axes.size(); i++) {
    int axis = axis_from(axes[i], self);
    view.dims[i] = self->dims[axis];
    view.strides[i] = self->strides[axis];
  }
  copy(view, *out);
})
KERNEL(aclnnExpand, (const T *self, const seq *, T *out, PLAN), IN(self), OUT(out),
       { copy(spread(self, dims(out)), *out); })

// Each output dimension is the input's, several times over. As a view: a dimension of repeats, of stride 0, before
// each.
KERNEL(aclnnRepeat, (const T *self, const seq *, T *out, PLAN), IN(self), OUT(out), {
  Dims sizes = dims(out);
  int added = int(sizes.size()) - int(self->ndim);
  auto from = load<double>(self);
  std::vector<double> to(count(sizes));
  for (size_t i = 0; i < to.size(); i++) {
    int64_t rest = i, at = 0, stride = 1;
    for (int axis = sizes.size() - 1; axis >= added; axis--) {
      int64_t size = self->dims[axis - added];
      at += rest % sizes[axis] % size * stride;
      rest /= sizes[axis];
      stride *= size;
    }
    to[i] = from[at];
  }
  store(out, to);
})

KERNEL(aclnnCat, (const seq *tensors, int64_t dim, T *out, PLAN), IN(), OUT(out), {
  int axis = axis_from(dim, out);
  int64_t at = 0;
  for (uint64_t i = 0; i < tensors->n; i++) {
    const T *tensor = item(tensors, i);
    if (tensor->ndim == 1 && !tensor->dims[0]) continue; // an empty one may have another number of dimensions
    T place = part(out, axis, at, tensor->dims[axis]);
    copy(*tensor, place);
    at += tensor->dims[axis];
  }
})
KERNEL(aclnnSplitWithSize, (const T *self, const seq *, int64_t dim, const seq *outputs, PLAN), IN(self), OUT(), {
  int axis = axis_from(dim, self);
  int64_t at = 0;
  for (uint64_t i = 0; i < outputs->n; i++) {
    T *out = item(outputs, i);
    copy(part(self, axis, at, out->dims[axis]), *out);
    at += out->dims[axis];
  }
})
CHECKED_KERNEL(aclnnSlice, (const T *self, int64_t dim, int64_t start, int64_t, int64_t step, T *out, PLAN), IN(self),
               OUT(out), step > 0 ? "" : "step must be positive", {
                 int axis = axis_from(dim, self);
                 T view = part(self, axis, start < 0 ? start + self->dims[axis] : start, out->dims[axis]);
                 view.strides[axis] *= step;
                 copy(view, *out);
               })

// `pad` has two numbers for each dimension, before and after it, from the last dimension on.
KERNEL(aclnnConstantPadNd, (const T *self, const seq *pad, const scalar *value, T *out, PLAN), IN(self), OUT(out), {
  store(out, std::vector<double>(count(dims(out)), num(value)));
  T inside = *out;
  auto widths = ints(pad);
  for (size_t i = 0; i < widths.size() / 2; i++) inside.off += widths[2 * i] * out->strides[self->ndim - 1 - i];
  for (uint64_t k = 0; k < self->ndim; k++) inside.dims[k] = self->dims[k];
  copy(*self, inside);
})

// The pixel of the small image that pixel `at` of the large one copies.
static int64_t nearest(int64_t at, int64_t small, int64_t large) { return at * small / large; }
template <class Fn> static void pixel_pairs(const T *small, const T *large, Fn fn) {
  int64_t planes = small->dims[0] * small->dims[1], height = small->dims[2], width = small->dims[3];
  int64_t large_h = large->dims[2], large_w = large->dims[3];
  for (int64_t plane = 0; plane < planes; plane++)
    for (int64_t y = 0; y < large_h; y++)
      for (int64_t x = 0; x < large_w; x++)
        fn((plane * height + nearest(y, height, large_h)) * width + nearest(x, width, large_w),
           (plane * large_h + y) * large_w + x);
}
KERNEL(aclnnUpsampleNearest2d, (const T *self, const seq *, T *out, PLAN), IN(self), OUT(out), {
  auto from = load<double>(self);
  std::vector<double> to(count(dims(out)));
  pixel_pairs(self, out, [&](int64_t small, int64_t large) { to[large] = from[small]; });
  store(out, to);
})
KERNEL(aclnnUpsampleNearest2dBackward, (const T *gradOut, const seq *, const seq *, double, double, T *gradInput, PLAN),
       IN(gradOut), OUT(gradInput), {
         auto from = load<float>(gradOut);
         std::vector<float> to(count(dims(gradInput)), 0.f);
         pixel_pairs(gradInput, gradOut, [&](int64_t small, int64_t large) { to[small] += from[large]; });
         store(gradInput, to);
       })

KERNEL(aclnnIndexSelect, (const T *self, int64_t dim, const T *index, T *out, PLAN), IN(self, index), OUT(out), {
  int axis = axis_from(dim, self);
  auto indices = load<int64_t>(index);
  for (size_t i = 0; i < indices.size(); i++) {
    check_index(indices[i], self->dims[axis]);
    T place = part(out, axis, i, 1);
    copy(part(self, axis, indices[i], 1), place);
  }
})
KERNEL(aclnnEmbedding, (const T *weight, const T *indices, T *out, PLAN), IN(weight, indices), OUT(out), {
  auto table = load<double>(weight);
  int64_t width = weight->dims[1];
  std::vector<double> rows;
  for (int64_t index : load<int64_t>(indices)) {
    check_index(index, weight->dims[0]);
    rows.insert(rows.end(), table.begin() + index * width, table.begin() + (index + 1) * width);
  }
  store(out, rows);
})
// out[i][j] = self[index[i][j]][j] for dim 0, and so on.
KERNEL(aclnnGather, (const T *self, int64_t dim, const T *index, T *out, PLAN), IN(self, index), OUT(out), {
  int axis = axis_from(dim, self);
  auto from = load<double>(self);
  auto indices = load<int64_t>(index);
  std::vector<double> to(indices.size());
  for (size_t i = 0; i < to.size(); i++) {
    int64_t rest = i, at = 0, stride = 1;
    for (int k = int(index->ndim) - 1; k >= 0; k--) {
      int64_t position = rest % index->dims[k];
      rest /= index->dims[k];
      if (k == axis) {
        position = indices[i] < 0 ? indices[i] + self->dims[k] : indices[i];
        check_index(position, self->dims[k]);
      }
      at += position * stride;
      stride *= self->dims[k];
    }
    to[i] = from[at];
  }
  store(out, to);
})

// The positions of what is not zero, one in each row. MindSpore reads from the tensor how many there are.
KERNEL(aclnnNonzero, (const T *self, T *out, PLAN), IN(self), OUT(out), {
  auto elements = load<double>(self);
  std::vector<int64_t> positions;
  int64_t found = 0;
  for (size_t i = 0; i < elements.size(); i++) {
    if (!elements[i]) continue;
    found++;
    int64_t rest = i;
    Dims position(self->ndim);
    for (int k = int(self->ndim) - 1; k >= 0; k--) {
      position[k] = rest % self->dims[k];
      rest /= self->dims[k];
    }
    positions.insert(positions.end(), position.begin(), position.end());
  }
  out->dims[0] = found;
  store(out, positions);
})

KERNEL(aclnnArange, (const scalar *start, const scalar *, const scalar *step, T *out, PLAN), IN(), OUT(out), {
  std::vector<double> values(count(dims(out)));
  for (size_t i = 0; i < values.size(); i++) values[i] = num(start) + i * num(step);
  store(out, values);
})
KERNEL(aclnnLinspace, (const scalar *start, const scalar *end, int64_t steps, T *out, PLAN), IN(), OUT(out), {
  std::vector<double> values(steps);
  double first = num(start), last = num(end);
  for (int64_t i = 0; i < steps; i++) values[i] = steps == 1 ? first : first + (last - first) * i / (steps - 1);
  store(out, values);
})
// Adds the gradient of each index's row to that row of the table's.
KERNEL(aclnnEmbeddingDenseBackward,
       (const T *grad, const T *indices, uint64_t numWeights, uint64_t paddingIdx, bool scaleGradByFreq, T *out, PLAN),
       IN(grad, indices), OUT(out), {
         if (scaleGradByFreq) throw NotProvided{"the stand-in's EmbeddingDenseBackward does not scale by frequency"};
         auto rows = load<int64_t>(indices);
         auto from = load<double>(grad);
         int64_t width = out->dims[1];
         std::vector<double> to(numWeights * width, 0.0);
         for (size_t i = 0; i < rows.size(); i++) {
           if (rows[i] == int64_t(paddingIdx)) continue;
           for (int64_t j = 0; j < width; j++) to[rows[i] * width + j] += from[i * width + j];
         }
         store(out, to);
       })
KERNEL(aclnnFlip, (const T *self, const seq *axes, T *out, PLAN), IN(self), OUT(out), {
  T view = *self;
  for (int64_t given : ints(axes)) {
    int axis = axis_from(given, self);
    view.off += (view.dims[axis] - 1) * view.strides[axis];
    view.strides[axis] = -view.strides[axis];
  }
  store(out, load<double>(&view));
})
// As reproducible as CANN's, with other numbers.
KERNEL(aclnnInplaceNormal, (T * selfRef, float mean, float std, int64_t seed, int64_t offset, PLAN), IN(selfRef), OUT(),
       {
         std::vector<float> values(count(dims(selfRef)));
         std::mt19937_64 generator(seed * 1000003 + offset);
         std::normal_distribution<float> normal(mean, std);
         for (auto &value : values) value = normal(generator);
         store(selfRef, values);
       })

static void fill_where(const T *mask, T *to, double value) {
  T spread_mask = spread(mask, dims(to));
  auto chosen = load<int64_t>(&spread_mask);
  auto elements = load<double>(to);
  for (size_t i = 0; i < elements.size(); i++)
    if (chosen[i]) elements[i] = value;
  store(to, elements);
}
KERNEL(aclnnInplaceMaskedFillTensor, (T * selfRef, const T *mask, const T *value, PLAN), IN(selfRef, mask, value),
       OUT(), { fill_where(mask, selfRef, load<double>(value)[0]); })
KERNEL(aclnnInplaceMaskedFillScalar, (T * selfRef, const T *mask, const scalar *value, PLAN), IN(selfRef, mask), OUT(),
       { fill_where(mask, selfRef, num(value)); })
// Pieces of one size along an axis; the last may be smaller.
KERNEL(aclnnSplitTensor, (const T *self, uint64_t splitSections, int64_t dim, const seq *out, PLAN), IN(self), OUT(), {
  int axis = axis_from(dim, self);
  for (uint64_t i = 0; i < out->n; i++) {
    T *piece = item(out, i);
    T view = part(self, axis, i * splitSections, piece->dims[axis]);
    store(piece, load<double>(&view));
  }
})
KERNEL(aclnnStack, (const seq *tensors, int64_t dim, T *out, PLAN), IN(), OUT(out), {
  int axis = axis_from(dim, out);
  for (uint64_t i = 0; i < tensors->n; i++) {
    T slot = part(out, axis, i, 1);
    for (uint64_t j = axis; j + 1 < slot.ndim; j++)
      slot.dims[j] = slot.dims[j + 1], slot.strides[j] = slot.strides[j + 1];
    slot.ndim--;
    store(&slot, load<double>(item(tensors, i)));
  }
})
// out[i] = self[indices[0][i], indices[1][i], ...], with indices of one shape for the first dimensions.
KERNEL(aclnnIndex, (const T *self, const seq *indices, T *out, PLAN), IN(self), OUT(out), {
  Dims common;
  for (uint64_t k = 0; k < indices->n; k++) {
    T *one = item(indices, k);
    if (!one || !integral(one) || one->dtype == BOOL) throw NotProvided{"the stand-in's Index takes integers alone"};
    if (one->ndim > common.size()) common = dims(one);
  }
  std::vector<int64_t> rows(count(common), 0);
  int64_t inner = 1;
  for (uint64_t k = 0; k < indices->n; k++) {
    T view = spread(item(indices, k), common);
    auto places = load<int64_t>(&view);
    for (size_t i = 0; i < rows.size(); i++)
      rows[i] = rows[i] * self->dims[k] + (places[i] < 0 ? places[i] + self->dims[k] : places[i]);
  }
  for (uint64_t k = indices->n; k < self->ndim; k++) inner *= self->dims[k];
  auto from = load<double>(self);
  std::vector<double> to;
  for (int64_t row : rows) to.insert(to.end(), from.begin() + row * inner, from.begin() + (row + 1) * inner);
  store(out, to);
})
