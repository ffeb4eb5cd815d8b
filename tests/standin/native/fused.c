// jit_level O1: MindSpore's own compiler fuses operators into machine code of an NPU, which a processor cannot run.
#include "runtime.h"
#include <stdio.h>

// Fails, because its output would be wrong. Where nothing is computed it is only traced.
int rtKernelLaunch(const void *function, uint32_t blocks, void *arguments, uint32_t size, void *sm, void *stream) {
  stub_trace("fused", "rtKernelLaunch", "");
  if (!stub_computes()) return 0;
  const char *message = "rtKernelLaunch: a kernel that jit_level O1 has fused is an NPU's machine code, which the "
                        "stand-in cannot run";
  static int said;
  if (!said++) fprintf(stderr, "[stand-in] %s\n", message);
  stub_error(message);
  return 507899;
}
