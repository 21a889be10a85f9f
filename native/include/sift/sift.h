/* The C interface of sift's op library.
 *
 * onnxruntime needs `RegisterCustomOps` alone; it adds the domain "sift" to a session's options. The other functions
 * only report, and may be called from any thread at any time.
 */
#ifndef SIFT_SIFT_H
#define SIFT_SIFT_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define SIFT_EXPORT __declspec(dllexport)
#else
#define SIFT_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

struct OrtStatus;
struct OrtSessionOptions;
struct OrtApiBase;

/* Adds SparseConv and SparseLinear, with every epilogue, to `options`. Needs onnxruntime 1.17 or newer; returns null,
 * or a status to release. */
SIFT_EXPORT struct OrtStatus* RegisterCustomOps(struct OrtSessionOptions* options, const struct OrtApiBase* base);

/* Instruction sets this build and this processor can both run, best first, separated by commas: "avx2,portable". */
SIFT_EXPORT const char* sift_available_isas(void);

/* GFLOP/s of one thread in float32 multiplications and additions in registers, with the instruction set that kernels
 * use (0 where SIFT_FORCE_ISA names none that there is): the most any kernel could reach. Takes some 30 milliseconds.
 */
SIFT_EXPORT double sift_peak_gflops(void);

/* This processor, as plans name it: "GenuineIntel/6/143/avx512" are its vendor, family and model, and the instruction
 * set that kernels use. Empty where SIFT_FORCE_ISA names none that there is. */
SIFT_EXPORT const char* sift_cpu(void);

/* Ways to compute a layer here, as a JSON array of texts for the attribute `plan` of its node. The first is what is
 * done without the attribute, behind it come others that may be faster, the likely ones first. `shape` has 3 numbers
 * for SparseLinear, inputs, outputs, tokens or 16 for SparseConv, channels, height, width, filters, kernel (down,
 * across), strides, dilations (the same), pads (top, left, bottom, right), groups, images which the ops would accept;
 * `kept` is the number of kept weights. Writes as sift_report does. */
SIFT_EXPORT size_t sift_plans(const int64_t* shape, size_t count, uint64_t kept, char* out, size_t size);

/* Marks every op instance that this thread creates from now on with `token` (0, the default, marks nothing). Creating a
 * session between two calls marks that session's ops. */
SIFT_EXPORT void sift_watch(uint64_t token);

/* Writes a JSON array of the living op instances marked with `token`, in order of creation:
 *     [{"node": …, "op": …, "kernel": name or null before the first run, "isa": …, "runs": …}, …]
 * Writes at most `size` bytes, a closing NUL included, and returns the bytes the whole text needs. */
SIFT_EXPORT size_t sift_report(uint64_t token, char* out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
