#include "freed_memory.h"

#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace gemma3 {
namespace {

// Whether the loader wrote into segments that are not writable, so that the file does not have them.
bool relocated_in_place(const dl_phdr_info &library) {
  const ElfW(Phdr) *end = library.dlpi_phdr + library.dlpi_phnum;
  return std::any_of(library.dlpi_phdr, end, [&](const ElfW(Phdr) &segment) {
    if (segment.p_type != PT_DYNAMIC) return false;
    const auto *entry = reinterpret_cast<const ElfW(Dyn) *>(library.dlpi_addr + segment.p_vaddr);
    for (; entry->d_tag != DT_NULL; ++entry) {
      if (entry->d_tag == DT_TEXTREL) return true;
      if (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL) != 0) return true;
    }
    return false;
  });
}

// Lets go of the pages of one library, if `base` is where it lies.
int let_go(dl_phdr_info *library, size_t, void *base) {
  if (library->dlpi_addr != reinterpret_cast<uintptr_t>(base)) return 0;
  if (relocated_in_place(*library)) return 1;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const ElfW(Phdr) &segment = library->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    // Whole pages only: those at the edges may be shared with a writable segment.
    const uintptr_t begin = (library->dlpi_addr + segment.p_vaddr + page - 1) / page * page;
    const uintptr_t end = (library->dlpi_addr + segment.p_vaddr + segment.p_filesz) / page * page;
    if (begin < end) ::madvise(reinterpret_cast<void *>(begin), end - begin, MADV_DONTNEED);
  }
  return 1;
}

}  // namespace

void return_freed_memory(const Plugin &plugin) {
#if defined(__GLIBC__)
  ::malloc_trim(0);
#endif
  Dl_info found;
  const auto *function = reinterpret_cast<const void *>(plugin.api().PJRT_Client_Create);
  if (::dladdr(function, &found) != 0) ::dl_iterate_phdr(let_go, found.dli_fbase);
}

}  // namespace gemma3
