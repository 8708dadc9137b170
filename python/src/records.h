// Fields of the C interface's records as Python properties: a missing reading, NaN, is None.
#pragma once

#include <cmath>
#include <cstdio>
#include <optional>
#include <span>
#include <string>

#include "arrays.h"

namespace thermoe::python {

template <typename Record>
struct Field {
  const char* name;
  double Record::*member;
};

inline nb::object optional_of(double value) {
  return std::isnan(value) ? nb::none() : nb::object(nb::float_(value));
}
inline double double_or_missing(std::optional<double> value) { return value.value_or(NAN); }

// "Name(field=1.5, ...)", without what is missing.
template <typename Record>
std::string text_of(const char* name, const Record& record, std::span<const Field<Record>> fields) {
  std::string text = std::string(name) + "(";
  for (const auto& field : fields) {
    if (std::isnan(record.*field.member)) continue;
    char value[40];
    std::snprintf(value, sizeof(value), "%.6g", record.*field.member);
    text += (text.back() == '(' ? "" : ", ") + std::string(field.name) + "=" + value;
  }
  return text + ")";
}

// Read-only properties of the fields, and a repr.
template <typename Record, size_t kCount>
void def_fields(nb::class_<Record>& cls, const char* name, const Field<Record> (&fields)[kCount]) {
  for (const auto& field : fields)
    cls.def_prop_ro(field.name, [member = field.member](const Record& r) { return r.*member; });
  const std::span<const Field<Record>> all(fields);
  cls.def("__repr__", [name, all](const Record& r) { return text_of(name, r, all); });
}

}  // namespace thermoe::python
