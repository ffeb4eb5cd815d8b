// The older interface: operators by name, with inputs, outputs and attributes.
#pragma once
#include "tensors.h"

typedef std::map<std::string, std::vector<double>> Attributes;

struct AclopCall {
  std::vector<T> inputs, outputs; // without data where the operator was given none
  const Attributes &attributes;

  double attribute(const char *name, double missing = 0) const {
    auto found = attributes.find(name);
    return found == attributes.end() || found->second.empty() ? missing : found->second[0];
  }
};

typedef void (*AclopKernel)(AclopCall &call);
bool list_aclop(const char *name, AclopKernel kernel);

// The body sees `call`. It returns, or calls `refuse` with what it does not provide.
#define ACLOP(name, ...)                                                                                               \
  static void aclop_##name(AclopCall &call) __VA_ARGS__ static const bool aclop_##name##_listed =                      \
      list_aclop(#name, aclop_##name);
