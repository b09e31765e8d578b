// Runs damaged artefacts: nothing may crash, hang or leave its memory, and both modes must agree on what happens.
//
//     fuzz_program CORPUS_DIR SEED COUNT
//
// CORPUS_DIR holds good artefacts. Each round changes one of them: bits, bytes, fields, instructions, lengths, its
// description; mostly with the checksum made right again, so that the damage gets past it. Build with sanitizers.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "crc32.h"
#include "simulate.h"
#include "subgraph.h"

namespace qaccel {

namespace {

using Random = std::mt19937_64;
constexpr size_t kHeaderBytes = 16, kTextBytesAt = 8, kCrcAt = 12;

size_t Below(Random& random, size_t limit) { return limit == 0 ? 0 : random() % limit; }

void PutWord(std::string& bytes, size_t at, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes[at + static_cast<size_t>(i)] = static_cast<char>(value >> 8 * i);
}

uint32_t GetWord(const std::string& bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[at + static_cast<size_t>(i)])) << 8 * i;
  return value;
}

void Seal(std::string& bytes) {
  PutWord(bytes, kCrcAt,
          Crc32(0, reinterpret_cast<const uint8_t*>(bytes.data()) + kHeaderBytes, bytes.size() - kHeaderBytes));
}

// Overwrites up to 32 bits from a bit on with a value that is often extreme.
void SetBits(Random& random, std::string& bytes, size_t begin, size_t end) {
  const size_t width = 1 + Below(random, 32), first = begin * 8 + Below(random, (end - begin) * 8);
  const uint64_t kinds[] = {0, ~uint64_t{0}, 1, random(), uint64_t{1} << (width - 1), (uint64_t{1} << (width - 1)) - 1};
  const uint64_t value = kinds[Below(random, std::size(kinds))];
  for (size_t i = 0; i < width && first + i < end * 8; ++i) {
    char& byte = bytes[(first + i) / 8];
    const char bit = static_cast<char>(1 << (first + i) % 8);
    byte = value >> i & 1 ? static_cast<char>(byte | bit) : static_cast<char>(byte & ~bit);
  }
}

// Swaps, repeats or overwrites whole instructions.
void MoveInstructions(Random& random, std::string& bytes, size_t begin, size_t count) {
  if (count < 2) return;
  const size_t size = isa::kInstructionBytes;
  const size_t a = begin + Below(random, count) * size, b = begin + Below(random, count) * size;
  const std::string first = bytes.substr(a, size), second = bytes.substr(b, size);
  bytes.replace(a, size, second);
  if (random() & 1) bytes.replace(b, size, first);
}

void ChangeDigit(Random& random, std::string& bytes, size_t begin, size_t end) {
  for (int attempt = 0; attempt < 64; ++attempt) {
    char& c = bytes[begin + Below(random, end - begin)];
    if (c < '0' || c > '9') continue;
    c = static_cast<char>('0' + Below(random, 10));
    return;
  }
}

std::string Mutate(Random& random, std::string bytes) {
  if (Below(random, 50) == 0) {  // as a broken download would be
    if (random() & 1) bytes.resize(Below(random, bytes.size()));
    if (!bytes.empty()) bytes[Below(random, bytes.size())] = static_cast<char>(random());
    return bytes;
  }
  const size_t text_end = kHeaderBytes + GetWord(bytes, kTextBytesAt);
  const Artefact artefact = ParseArtefact(bytes);
  const size_t program_end = text_end + artefact.program.size();
  for (size_t rounds = 1 + Below(random, 3); rounds > 0; --rounds) {
    switch (Below(random, 16)) {
      case 0: MoveInstructions(random, bytes, text_end, artefact.program.size() / isa::kInstructionBytes); break;
      case 1: ChangeDigit(random, bytes, kHeaderBytes, text_end); break;
      case 2: bytes[kHeaderBytes + Below(random, text_end - kHeaderBytes)] = static_cast<char>(random()); break;
      case 3:
      case 4:
        if (bytes.size() > program_end) SetBits(random, bytes, program_end, bytes.size());
        break;
      default: SetBits(random, bytes, text_end, program_end);
    }
  }
  Seal(bytes);
  return bytes;
}

struct Outcome {
  bool failed = false;
  std::string text;  // the error, or all outputs
};

Outcome RunArtefact(const std::string& bytes, bool cycle_mode) {
  try {
    Subgraph subgraph(bytes, nullptr);
    std::vector<std::vector<uint8_t>> inputs, outputs;
    std::vector<const uint8_t*> in;
    std::vector<uint8_t*> out;
    constexpr int64_t kSamples = 2;
    for (const TensorSlot& slot : subgraph.artefact().inputs) {
      std::vector<uint8_t>& tensor = inputs.emplace_back(static_cast<size_t>(kSamples * Subgraph::CarrierBytes(slot)));
      for (size_t i = 0; i < tensor.size(); ++i) tensor[i] = static_cast<uint8_t>(slot.bits == 4 ? i % 8 : i * 89);
    }
    for (const TensorSlot& slot : subgraph.artefact().outputs) {
      outputs.emplace_back(static_cast<size_t>(kSamples * Subgraph::CarrierBytes(slot)));
    }
    for (auto& tensor : inputs) in.push_back(tensor.data());
    for (auto& tensor : outputs) out.push_back(tensor.data());
    const Trace trace = subgraph.Run(in, out, kSamples, cycle_mode);
    if (cycle_mode) subgraph.Report(trace, true);
    Outcome outcome;
    for (auto& tensor : outputs) outcome.text.append(tensor.begin(), tensor.end());
    return outcome;
  } catch (const Fault& fault) {
    return {true, fault.what()};
  }
}

// What kind of error it is: its text without numbers.
std::string Kind(const std::string& text) {
  std::string kind;
  for (const char c : text.substr(text.rfind("': ") == std::string::npos ? 0 : text.rfind("': ") + 3)) {
    if (c < '0' || c > '9') kind += c;
  }
  return kind.substr(0, 48);
}

int Main(const char* folder, uint64_t seed, size_t count) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    const Outcome good = RunArtefact(corpus.back(), false);
    if (good.failed) {
      std::fprintf(stderr, "%s fails as it is: %s\n", path.c_str(), good.text.c_str());
      return 1;
    }
  }
  Random random(seed);
  std::map<std::string, size_t> kinds;
  size_t ran = 0;
  double slowest = 0;
  for (size_t i = 0; i < count; ++i) {
    const std::string bytes = Mutate(random, corpus[Below(random, corpus.size())]);
    const auto begin = std::chrono::steady_clock::now();
    const Outcome functional = RunArtefact(bytes, false), cycles = RunArtefact(bytes, true);
    slowest = std::max(slowest, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    const bool too_long = cycles.failed && cycles.text.find("cycles") != std::string::npos;
    const bool agree = functional.failed == cycles.failed && (functional.failed || functional.text == cycles.text);
    const bool one_line = functional.text.find('\n') == std::string::npos || !functional.failed;
    if ((!agree && !too_long) || !one_line) {
      std::fprintf(stderr, "seed %llu round %zu: functional '%s', cycle '%s'\n", static_cast<unsigned long long>(seed),
                   i, functional.failed ? functional.text.c_str() : "runs",
                   cycles.failed ? cycles.text.c_str() : "runs");
      return 1;
    }
    if (functional.failed) {
      ++kinds[Kind(functional.text)];
    } else {
      ++ran;
    }
  }
  std::printf("%zu mutations, %zu still ran, %zu kinds of errors, slowest %.1f s\n", count, ran, kinds.size(), slowest);
  std::vector<std::pair<size_t, std::string>> sorted;
  for (const auto& [kind, times] : kinds) sorted.emplace_back(times, kind);
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < std::min<size_t>(sorted.size(), 40); ++i)
    std::printf("%8zu %s\n", sorted[i].first, sorted[i].second.c_str());
  return 0;
}

}  // namespace

}  // namespace qaccel

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s CORPUS_DIR SEED COUNT\n", argv[0]);
    return 2;
  }
  return qaccel::Main(argv[1], std::strtoull(argv[2], nullptr, 10), std::strtoull(argv[3], nullptr, 10));
}
