// Instruction sets: which there are, which this processor has, and which one was asked for.
#pragma once

#include <string>
#include <vector>

#include "kernels/lanes.h"

namespace sift {

enum class Isa { kAvx512, kAvx2, kPortable };  // best first

const char* name(Isa isa);

// Of one that this build has.
const Lanes& lanes_of(Isa isa);

// Those that both this build and this processor have, best first.
const std::vector<Isa>& available_isas();

// The available ones, or the only one that the environment variable SIFT_FORCE_ISA names; read once a process.
//
// Throws std::invalid_argument, each time, where it names none or one that is not available.
const std::vector<Isa>& usable_isas();

// The rule behind usable_isas; `forced` is null or empty where nothing is forced.
std::vector<Isa> choose_isas(const char* forced, const std::vector<Isa>& available);

// "avx2,scalar"
std::string join(const std::vector<Isa>& isas);

}  // namespace sift
