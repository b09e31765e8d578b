// How long instructions take, and whole programs, against cycles computed by hand from the manual's formulas.
#include "bench.h"
#include "check.h"
#include "core.h"

namespace qaccel {

namespace {

// Cycles of an instruction after its start-up, on SmallConfig(), whose sizes are those of qaccel-256.
template <typename Ins>
int64_t UnitsOf(const Ins& ins, const Config& hw = SmallConfig()) {
  Bench bench(hw);
  return DurationOf(bench.machine, ins).units;
}

template <typename Ins>
Ins Windowed(int64_t size, int64_t kernel, int64_t pad) {
  Ins ins;
  ins.in_h = ins.in_w = ins.out_h = ins.out_w = size;
  ins.kernel_h = ins.kernel_w = kernel;
  ins.stride_h = ins.stride_w = ins.dilation_h = ins.dilation_w = 1;
  ins.pad_top = ins.pad_left = pad;
  ins.finish = true;
  return ins;
}

TEST(conv_takes_its_slowest_unit) {
  isa::Conv ins = Windowed<isa::Conv>(56, 3, 1);
  ins.in_channels = ins.out_channels = 64;
  // 64 / 16 = 4 groups; 9 * 64 / 16 = 36 slices; 3136 pixels in 24 blocks of 4096 / 2 / 16 = 128 and one of 64, which
  // are longer than the 16 * 16 / 64 = 4 cycles of a slice's weights: 4 * 36 * 3136.
  CHECK_EQ(UnitsOf(ins), 451584);
  // Weights of 4 bits: 2 groups, and blocks of 64 pixels. Activations of 4 bits: 18 slices.
  ins.weight_bits = 4;
  CHECK_EQ(UnitsOf(ins), 2 * 36 * 3136);
  ins.in_bits = 4;
  CHECK_EQ(UnitsOf(ins), 2 * 18 * 3136);
  // 16-bit weights: 8 groups; 16-bit activations: 72 slices.
  ins.weight_bits = ins.in_bits = 16;
  CHECK_EQ(UnitsOf(ins), 8 * 72 * 3136);
  // One pixel more than a block: 128 + max(1, 4).
  ins = Windowed<isa::Conv>(1, 1, 0);
  ins.out_w = ins.in_w = 129;
  ins.in_channels = ins.out_channels = 16;
  CHECK_EQ(UnitsOf(ins), 132);
  // Reads decide: one product for each of 3136 pixels of 1 byte on a port of a byte: 3136 and one record of 12.
  Config narrow = SmallConfig();
  narrow.sram_read_bytes_per_cycle = 1;
  ins = Windowed<isa::Conv>(56, 1, 0);
  ins.in_channels = ins.out_channels = 1;
  CHECK_EQ(UnitsOf(ins, narrow), 3136 + 12);
  ins.finish = false;
  CHECK_EQ(UnitsOf(ins, narrow), 3136);
  // The requantizer decides: 3136 * 16 / 4; then the write port: 3136 * 16 * 2 bytes / 4.
  ins.finish = true;
  ins.out_channels = 16;
  narrow = SmallConfig();
  narrow.requantize_outputs_per_cycle = 4;
  CHECK_EQ(UnitsOf(ins, narrow), 12544);
  ins.out_bits = 16;
  narrow.sram_write_bytes_per_cycle = 4;
  CHECK_EQ(UnitsOf(ins, narrow), 25088);
}

// What an ELTWISE or TABLE takes behind a CONV or DEPTHWISE that forwards to it.
template <typename Before, typename Ins>
int64_t UnitsBehind(const Before& before, const Ins& ins) {
  Bench bench;
  bench.machine.forwarded.by = before;
  return DurationOf(bench.machine, ins).units;
}

TEST(a_post_stage_takes_the_slowest_unit_of_both) {
  isa::Conv conv = Windowed<isa::Conv>(56, 1, 0);
  conv.in_channels = conv.out_channels = 16;
  conv.forward = true;
  CHECK_EQ(UnitsOf(conv), 1);
  isa::Eltwise sum;
  sum.h = sum.w = 56;
  sum.channels = 16;
  sum.forwarded = true;
  // The array takes 3136. Reads: 3136 * 16 and 12 * 16 bytes, then 3136 * 16 of the second operand, 32 a cycle. Outputs pass the
  // requantizer twice: 2 * 3136 * 16 / 32.
  CHECK_EQ(UnitsBehind(conv, sum), 1574 + 1568);
  sum.b_scalar = true;
  CHECK_EQ(UnitsBehind(conv, sum), 3136);
  isa::Table table;
  table.h = table.w = 56;
  table.channels = 16;
  table.forwarded = true;
  CHECK_EQ(UnitsBehind(conv, table), 3136);  // 16 look-ups a cycle
  conv.in_channels = 64;
  CHECK_EQ(UnitsBehind(conv, table), 4 * 3136);
  // The array takes 3136 / 16 * 9 = 1764; look-ups, and the requantizer twice, take longer.
  isa::Depthwise depthwise = Windowed<isa::Depthwise>(56, 3, 1);
  depthwise.channels = 16;
  depthwise.forward = true;
  CHECK_EQ(UnitsBehind(depthwise, table), 3136);
  CHECK_EQ(UnitsBehind(depthwise, sum), 3136);
}

TEST(depthwise_and_pool) {
  isa::Depthwise ins = Windowed<isa::Depthwise>(112, 3, 1);
  ins.channels = 32;
  CHECK_EQ(UnitsOf(ins), 2 * 784 * 9);  // groups of 16 channels, 12544 / 16 rows of outputs, taps
  Config narrow = SmallConfig();
  narrow.sram_read_bytes_per_cycle = 16;
  CHECK_EQ(UnitsOf(ins, narrow), (12544 * 32 + 12 * 32) / 16);
  narrow = SmallConfig();
  narrow.weight_read_bytes_per_cycle = 1;
  ins.out_h = ins.out_w = 1;
  CHECK_EQ(UnitsOf(ins, narrow), 9 * 32);  // a byte of weights a cycle
  isa::Pool pool = Windowed<isa::Pool>(7, 7, 0);
  pool.out_h = pool.out_w = 1;
  pool.channels = 1280;
  CHECK_EQ(UnitsOf(pool), 80 * 1 * 49);
  CHECK_EQ(DurationOf(Bench().machine, pool).start_up, 24);
}

TEST(pointwise) {
  isa::Eltwise ins;
  ins.h = ins.w = 8;
  ins.channels = 64;
  CHECK_EQ(UnitsOf(ins), 64 * 128 / 32);
  ins.b_scalar = true;
  CHECK_EQ(UnitsOf(ins), 64 * 65 / 32);
  ins.b_scalar = false;
  ins.b_bits = 16;
  CHECK_EQ(UnitsOf(ins), 64 * 192 / 32);
  isa::Table table;
  table.h = table.w = 8;
  table.channels = 64;
  CHECK_EQ(UnitsOf(table), 4096 / 16);
  Config quick = SmallConfig();
  quick.table_lookups_per_cycle = 1024;
  CHECK_EQ(UnitsOf(table, quick), (4096 + 256) / 32);
  table.in_bits = 16;
  CHECK_EQ(UnitsOf(table, quick), 289);  // (8192 + 1026) / 32 = 288.06
  isa::Copy copy;
  copy.h = copy.w = 8;
  copy.channels = 64;
  CHECK_EQ(UnitsOf(copy), 4096 / 32);
  copy.out_bits = 16;
  CHECK_EQ(UnitsOf(copy), 8192 / 32);
}

TEST(transfers) {
  isa::Load load;
  load.rows = load.pixels = load.pixel_bytes = 4;
  load.pad_top = 1;
  load.pad_left = 2;
  CHECK_EQ(UnitsOf(load), 15);  // 5 * 6 * 4 bytes at 8 a cycle
  isa::LoadRaw raw;
  raw.bytes = 17;
  CHECK_EQ(UnitsOf(raw), 3);
  isa::Store store;
  store.rows = 3;
  store.pixels = 5;
  store.pixel_bytes = 7;
  CHECK_EQ(UnitsOf(store), 14);  // 105 / 8 = 13.1
  isa::Loadw loadw;
  loadw.source = isa::StreamSource::Sram;
  loadw.stream_bytes = 100;
  Bench bench;
  bench.machine.decode_cycles = 5;
  CHECK_EQ(DurationOf(bench.machine, loadw).units, 7);  // 100 / 16 = 6.25
  bench.machine.decode_cycles = 9;
  CHECK_EQ(DurationOf(bench.machine, loadw).units, 9);
  CHECK_EQ(DurationOf(bench.machine, loadw).decode_bound, true);
}

TEST(work_for_the_report) {
  isa::Conv conv = Windowed<isa::Conv>(5, 3, 1);
  conv.in_channels = 2;
  conv.out_channels = 7;
  CHECK_EQ(WorkOf(conv).macs, 25 * 7 * 9 * 2);
  isa::Depthwise depthwise = Windowed<isa::Depthwise>(5, 3, 1);
  depthwise.channels = 7;
  CHECK_EQ(WorkOf(depthwise).macs, 25 * 7 * 9);
  isa::Loadw loadw;
  loadw.stream_bytes = 40;
  CHECK_EQ(WorkOf(loadw).weight_bytes, 40);
  loadw.source = isa::StreamSource::Sram;
  CHECK_EQ(WorkOf(loadw).weight_bytes, 0);
}

// Bits of an instruction word, from bit `at` on. The positions below are those of the manual's tables.
void SetBits(Bytes& word, int at, int count, uint64_t value) {
  for (int i = 0; i < count; ++i) {
    if (value >> i & 1) word[static_cast<size_t>((at + i) / 8)] |= static_cast<uint8_t>(1 << (at + i) % 8);
  }
}

Bytes LoadRawWord(uint64_t dram_addr, uint64_t sram_addr, uint64_t bytes, uint64_t wait, uint64_t signal) {
  Bytes word(64);
  SetBits(word, 0, 8, 2);
  SetBits(word, 24, 5, wait);
  SetBits(word, 39, 5, signal);
  SetBits(word, 54, 32, dram_addr);
  SetBits(word, 86, 24, sram_addr);
  SetBits(word, 110, 24, bytes);
  return word;
}

// SRAM to DRAM, one run.
Bytes StoreWord(uint64_t dram_addr, uint64_t sram_addr, uint64_t bytes, uint64_t wait, uint64_t signal) {
  Bytes word(64);
  SetBits(word, 0, 8, 10);
  SetBits(word, 24, 5, wait);
  SetBits(word, 39, 5, signal);
  SetBits(word, 54, 32, dram_addr);
  SetBits(word, 142, 24, sram_addr);
  SetBits(word, 210, 16, 1);
  SetBits(word, 226, 16, 1);
  SetBits(word, 242, 20, bytes);
  return word;
}

Program Decoded(const std::vector<Bytes>& words) {
  std::string text;
  for (const Bytes& word : words) text.append(word.begin(), word.end());
  return DecodeProgram(text, {"first"});
}

Trace RunAll(Bench& bench, const std::vector<Bytes>& words, bool cycles = true) {
  const Program program = Decoded(words);
  return cycles ? RunCycles(program, bench.machine, 1024) : RunFunctional(program, bench.machine);
}

TEST(a_program_cycle_by_cycle) {
  Bench bench;
  bench.Put(bench.machine.dram, 0, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16});
  const Trace trace = RunAll(bench, {LoadRawWord(0, 64, 16, 0, 3), StoreWord(256, 64, 16, 3, 0)});
  // Fetch: 64 bytes are 8 beats, one burst, from cycle 0, then from 8; each arrives 64 cycles after it was served.
  CHECK_EQ(trace.start[0], 72);
  // Start-up 16: it asks at 88, is served in 2 beats until 90, arrives at 154. SRAM takes 2 cycles in parallel.
  CHECK_EQ(trace.end[0], 154);
  // The store was dispatched at 80 and waits for the token; 16 + 2 + 64 cycles after it.
  CHECK_EQ(trace.start[1], 154);
  CHECK_EQ(trace.end[1], 236);
  CHECK_EQ(trace.peak_sram_bytes, 80);
  CHECK_EQ(bench.Get(bench.machine.dram, 256, 3), (Bytes{1, 2, 3}));
}

TEST(the_channel_takes_turns) {
  Config hw = SmallConfig();
  hw.dram_latency_cycles = 0;
  hw.start_up_cycles_load = hw.start_up_cycles_store = 0;
  Bench bench(hw);
  bench.Put(bench.machine.dram, 0, Bytes(128, 7));
  bench.Put(bench.machine.sram, 1024, Bytes(128, 9));
  const Trace trace = RunAll(bench, {LoadRawWord(0, 0, 128, 0, 0), StoreWord(2048, 1024, 128, 0, 0)});
  // Fetch is served from 0 to 8. The load starts at 8 and is next in turn: 8 to 16; then fetch again, 16 to 24. The
  // store starts at 24, but after fetch it is LOAD's turn: 24 to 32; then the store's two bursts.
  CHECK_EQ(trace.start[0], 8);
  CHECK_EQ(trace.end[0], 32);
  CHECK_EQ(trace.start[1], 24);
  CHECK_EQ(trace.end[1], 48);
}

TEST(programs_that_are_refused) {
  Bench bench;
  bench.Put(bench.machine.dram, 0, Bytes(64, 1));
  for (const bool cycles : {false, true}) {
    bench.machine.Restart();
    bench.Put(bench.machine.dram, 0, Bytes(64, 1));
    CHECK_FAULT(RunAll(bench, {StoreWord(256, 0, 4, 1, 0)}, cycles), "deadlock");
    CHECK_FAULT(RunAll(bench, {LoadRawWord(0, 0, 4, 0, 5)}, cycles), "tokens left in semaphore 5");
    CHECK_FAULT(RunAll(bench, {LoadRawWord(0, 0, 4, 0, 0), StoreWord(256, 0, 4, 0, 0)}, cycles), "STORE");  // a race
  }
  CHECK_FAULT(Decoded({LoadRawWord(0, 0, 4, 6, 6)}), "both waits for and signals semaphore 6");
  CHECK_FAULT(Decoded({LoadRawWord(0, 0, 4, 0, 6), StoreWord(0, 0, 4, 0, 6)}), "whose producer is LOAD");
  Bytes word = LoadRawWord(0, 0, 4, 0, 0);
  word[63] = 1;
  CHECK_FAULT(Decoded({word}), "reserved bits");
  CHECK_FAULT(Decoded({Bytes(64)}), "unknown opcode");
  CHECK_FAULT(Decoded({Bytes(63, 2)}), "bytes");
}

TEST(configs) {
  std::string text = "{";
  for (const hw::Entry& entry : hw::kEntries) {
    if (!*entry.table) text += Text("\"", entry.name, "\":", entry.least, ",");
  }
  text += R"("start_up_cycles":{"load":1,"loadw":2,"compute":3,"store":4}})";
  const Config config = ParseConfig(Json::Parse(text));
  CHECK_EQ(config.rows, 2);
  CHECK_EQ(config.accumulator_bits, 48);
  CHECK_EQ(config.start_up_cycles_compute, 3);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    ParseConfig(Json::Parse(changed));
  };
  CHECK_FAULT(with("\"rows\":2", "\"rows\":6"), "rows is 6, must be a power of two");
  CHECK_FAULT(with("\"rows\":2", "\"rows\":1"), "rows is 1, must be 2 to 2147483648");
  CHECK_FAULT(with("\"sram_bytes\":1024", "\"sram_bytes\":16777217"),
              "sram_bytes is 16777217, must be 1024 to 16777216");
  CHECK_FAULT(with("\"store\":4", "\"store\":-1"), "store is -1");
  CHECK_FAULT(with("\"queue_entries\"", "\"queue\""), "queue_entries");
}

}  // namespace

}  // namespace qaccel
