// jit_level O1: MindSpore's own compiler fuses operators into machine code of an NPU, which a processor cannot run.
#include "runtime.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Fails, because its output would be wrong. With STANDIN_FUSED=skip the launch is only traced.
int rtKernelLaunch(const void *function, uint32_t blocks, void *arguments, uint32_t size, void *sm, void *stream) {
  stub_trace("fused", "rtKernelLaunch", "");
  const char *how = getenv("STANDIN_FUSED");
  if (how && !strcmp(how, "skip")) return 0;
  const char *message = "rtKernelLaunch: a kernel that jit_level O1 has fused is an NPU's machine code, which the "
                        "stand-in cannot run";
  static int said;
  if (!said++) fprintf(stderr, "[stand-in] %s\n", message);
  stub_error(message);
  return 507899;
}
