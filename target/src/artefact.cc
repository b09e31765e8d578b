#include "artefact.h"

#include "crc32.h"
#include "json.h"

namespace qaccel {

namespace {

constexpr std::string_view kMagic = "QACC";
constexpr uint64_t kContainerVersion = 1;
// Header: magic, container version, bytes of JSON, CRC-32 of all that follows; 32 bits each, little-endian.
constexpr size_t kVersionAt = 4, kTextBytesAt = 8, kCrcAt = 12, kHeaderBytes = 16;
constexpr int64_t kDramBytesMax = int64_t{1} << 32;  // what addresses reach
constexpr int64_t kSizeMax = 65535;                  // what fields of instructions hold

uint64_t Word32(std::string_view bytes, size_t at) {
  return isa::unsigned_bits(reinterpret_cast<const uint8_t*>(bytes.data()) + at, 0, 32);
}

uint32_t Crc(std::string_view bytes) { return Crc32(0, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()); }

std::vector<TensorSlot> ParseSlots(const Json& meta, const char* key, int64_t dram_bytes) {
  std::vector<TensorSlot> slots;
  for (const Json& entry : meta.ArrayAt(key)) {
    TensorSlot slot;
    slot.name = entry.StringAt("name");
    slot.dram_addr = entry.IntegerAt("dram_addr", 0, dram_bytes);
    slot.bits = entry.IntegerAt("bits", 4, 16);
    if (!IsWidth(slot.bits)) Fail(slot.name, " has ", slot.bits, " bits");
    const std::vector<Json>& shape = entry.ArrayAt("shape");
    if (shape.size() != 3) Fail(slot.name, " is not height, width, channels");
    int64_t* sizes[] = {&slot.h, &slot.w, &slot.c};
    for (size_t i = 0; i < 3; ++i) {
      *sizes[i] = shape[i].integer;
      if (shape[i].kind != Json::Kind::kInteger || *sizes[i] < 1 || *sizes[i] > kSizeMax)
        Fail(slot.name, " has a bad shape");
    }
    if (slot.DramEnd() > dram_bytes) Fail(slot.name, " is outside DRAM");
    slots.push_back(slot);
  }
  return slots;
}

Artefact ParseBody(const Json& meta, std::string_view blobs) {
  Artefact artefact;
  artefact.symbol = meta.StringAt("symbol");
  artefact.hw = ParseConfig(meta.At("hw"));
  for (const Json& layer : meta.ArrayAt("layers")) artefact.layers.push_back(layer.string);
  artefact.dram_bytes = meta.IntegerAt("dram_bytes", 0, kDramBytesMax);
  auto blob = [&](const char* key, int64_t& addr, std::string_view& bytes) {
    const Json& entry = meta.At(key);
    addr = entry.IntegerAt("addr", 0, artefact.dram_bytes);
    const auto size = static_cast<size_t>(entry.IntegerAt("bytes", 0, artefact.dram_bytes - addr));
    if (size > blobs.size()) Fail(key, " is cut off");
    bytes = blobs.substr(0, size);
    blobs.remove_prefix(size);
  };
  blob("program", artefact.program_addr, artefact.program);
  blob("constants", artefact.constants_addr, artefact.constants);
  artefact.inputs = ParseSlots(meta, "inputs", artefact.dram_bytes);
  artefact.outputs = ParseSlots(meta, "outputs", artefact.dram_bytes);
  for (const TensorSlot& input : artefact.inputs) {
    const bool in_program = input.dram_addr < artefact.ProgramEnd() && artefact.program_addr < input.DramEnd();
    const bool in_constants = input.dram_addr < artefact.ConstantsEnd() && artefact.constants_addr < input.DramEnd();
    if (in_program || in_constants) Fail(input.name, " overlaps program or constants");
  }
  return artefact;
}

}  // namespace

Artefact ParseArtefact(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    Fail("accelerator subgraph: not a qaccel artefact; compile the model again");
  }
  if (Word32(bytes, kVersionAt) != kContainerVersion) {
    Fail("accelerator subgraph: container version ", Word32(bytes, kVersionAt), ", this qaccel reads ",
         kContainerVersion, "; compile again");
  }
  const uint64_t text_bytes = Word32(bytes, kTextBytesAt);
  const std::string_view body = bytes.substr(kHeaderBytes);
  if (text_bytes > body.size() || Crc(body) != Word32(bytes, kCrcAt)) {
    Fail("accelerator subgraph: checksum mismatch, the file is damaged; compile the model again");
  }
  std::string symbol;
  int64_t version = 0;
  try {
    const Json meta = Json::Parse(body.substr(0, text_bytes));
    symbol = meta.StringAt("symbol");
    version = meta.IntegerAt("isa_version", 0, INT32_MAX);
    if (version == isa::kVersion) return ParseBody(meta, body.substr(text_bytes));
  } catch (const Fault& fault) {
    Fail("accelerator subgraph", symbol.empty() ? "" : " ", symbol, ": its description is damaged: ", fault.what(),
         "; compile the model again");
  }
  Fail("accelerator subgraph ", symbol, ": built for ISA version ", version, ", this qaccel runs ", isa::kVersion,
       "; compile again");
}

}  // namespace qaccel
