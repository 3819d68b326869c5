// Which version of the project these kernels are of: for people, no program calls it.

extern "C" __attribute__((visibility("default"))) const char *gemma3_kernels_version() {
  return GEMMA3_VERSION;
}
