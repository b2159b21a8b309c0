#pragma once

#include <cstddef>

namespace mbconv::io {

// malloc, realloc and free for a decoder that takes and returns the same few large blocks for each
// picture: every thread keeps some that were freed, because fresh ones cost a page fault for each
// 4 KiB. All memory is zeroed when it is taken; what reallocation adds is not. Null if there is
// none.
void* kept_allocate(size_t size);
void* kept_reallocate(void* block, size_t size);
void kept_free(void* block);

}  // namespace mbconv::io
