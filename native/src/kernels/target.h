// Compiling part of a file for a wider instruction set than the rest of the library.
//
// Between BEGIN and END every function, template and lambda carries the target. A per-file -mavx2 would leak into
// inline functions that this file shares with a baseline one, and the linker keeps only one copy of those; so headers
// of the standard library, and those of sift that are not templates over Vector, are included before BEGIN.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define SIFT_HAS_X86 1
#define SIFT_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define SIFT_TARGET_BEGIN(isas) SIFT_PRAGMA(clang attribute push(__attribute__((target(isas))), apply_to = function))
#define SIFT_TARGET_END _Pragma("clang attribute pop")
#else
#define SIFT_TARGET_BEGIN(isas) _Pragma("GCC push_options") SIFT_PRAGMA(GCC target(isas))
#define SIFT_TARGET_END _Pragma("GCC pop_options")
#endif
#endif
