// Elements of stored tensors: conversion to f32 and the search for values that are not finite.
#pragma once

#include <cstddef>
#include <span>

#include "thermoe/views.h"

namespace thermoe {

// Converts the first out.size() elements at `data` (of any alignment); exact for every type.
void to_f32(const void* data, DType dtype, std::span<float> out);

// Index of the first of `count` elements that is a NaN or an infinity; `count` where all are
// finite. Tests exponent bits only; runs at memory speed.
size_t first_not_finite(const void* data, DType dtype, size_t count);

bool is_nan(const void* data, DType dtype, size_t index);

}  // namespace thermoe
