#include "cost/measured_table.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "thermoe/error.h"

namespace thermoe::cost {
namespace {

const std::string kMoeHeader =
    "framework,version,device,op_name,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,"
    "topk,num_experts,moe_tp_size,moe_ep_size,distribution,latency\n";
const std::string kMoeRow =
    "VLLM,0.24.0,NVIDIA H100,moe,triton,bfloat16,16,2048,768,8,128,2,4,power_law_1.2,0.25\n";

class MeasuredTable : public testing::Test {
 protected:
  MeasuredTable()
      : file_(std::filesystem::temp_directory_path() /
              ("thermoe_table_" + std::to_string(::getpid()) + ".csv")) {}
  ~MeasuredTable() override { std::filesystem::remove(file_); }

  std::vector<MeasuredRow> read(const std::string& text) const {
    std::ofstream(file_, std::ios::binary) << text;
    return read_measured_table(file_);
  }
  void expect_complaint(const std::string& text, std::initializer_list<const char*> parts) const {
    try {
      read(text);
      ADD_FAILURE() << "read " << text;
    } catch (const IoError& error) {
      const std::string what = error.what();
      EXPECT_EQ(error.path(), file_.string());
      EXPECT_EQ(what.find('\n'), std::string::npos) << what;
      for (const char* part : parts)
        EXPECT_NE(what.find(part), std::string::npos) << part << ": " << what;
    }
  }
  // The good row with `cell` in place of `old`.
  static std::string with(const std::string& old, const std::string& cell) {
    std::string row = kMoeRow;
    return kMoeHeader + kMoeRow + row.replace(row.find("," + old + ",") + 1, old.size(), cell);
  }
  std::filesystem::path file_;
};

TEST_F(MeasuredTable, ReadsExperts) {
  const auto rows = read(kMoeHeader + kMoeRow + "\n" + kMoeRow);
  ASSERT_EQ(rows.size(), 2u);
  const MeasuredRow& row = rows[1];
  EXPECT_EQ(row.shape, (KernelShape{Operation::kExperts, 2048, 768, 128, 8, 2, 4, 1.2}));
  EXPECT_EQ(row.kernel, "triton");
  EXPECT_EQ(row.framework, "VLLM 0.24.0");
  EXPECT_EQ(row.device, "NVIDIA H100");
  EXPECT_EQ(row.dtype, "bf16");
  EXPECT_EQ(row.distribution, "power_law_1.2");
  EXPECT_EQ(row.tokens, 16);
  EXPECT_DOUBLE_EQ(row.latency_us, 250);
  EXPECT_EQ(row.power_w, 0);
}

TEST_F(MeasuredTable, ReadsProductsWithPowerAndWindowsLines) {
  const auto rows = read(
      "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency,power,power_"
      "limit\r\n"
      "VLLM,0.22.0,NVIDIA H200,gemm,vllm_default,fp8_block,32,4096,1024,1.5e-2,509.5,700\r\n"
      "VLLM,0.22.0,NVIDIA H200,gemm,vllm_default,float16,32,4096,1024,0.02,,");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].shape.op, Operation::kLinear);
  EXPECT_EQ(rows[0].shape.inter_size, 4096);
  EXPECT_EQ(rows[0].shape.hidden_size, 1024);
  EXPECT_DOUBLE_EQ(rows[0].latency_us, 15);
  EXPECT_EQ(rows[0].power_w, 509.5);
  EXPECT_EQ(rows[0].power_limit_w, 700);
  EXPECT_EQ(rows[1].power_w, 0);
  EXPECT_EQ(rows[1].dtype, "bf16");
}

TEST_F(MeasuredTable, ColumnsMayStandInAnyOrderAmongOthers) {
  const auto rows = read(
      "latency,distribution,note,moe_ep_size,moe_tp_size,num_experts,topk,inter_size,hidden_size,"
      "num_tokens,moe_dtype,kernel_source,op_name,device,version,framework\n"
      "0.25,power_law_1.2,hi,4,2,128,8,768,2048,16,bfloat16,triton,moe,NVIDIA H100,0.24.0,VLLM\n");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].shape, read(kMoeHeader + kMoeRow)[0].shape);
  EXPECT_DOUBLE_EQ(rows[0].latency_us, 250);
}

TEST_F(MeasuredTable, ReadsGzipAndNoticesTruncation) {
  std::string text = kMoeHeader;
  for (int i = 0; i < 3000; ++i)
    text +=
        with(std::to_string(16), std::to_string(i + 1)).substr(kMoeHeader.size() + kMoeRow.size());
  gzFile stream = gzopen(file_.c_str(), "wb");
  gzwrite(stream, text.data(), static_cast<unsigned>(text.size()));
  gzclose(stream);
  EXPECT_EQ(read_measured_table(file_).size(), 3000u);

  std::ifstream packed_stream(file_, std::ios::binary);
  const std::string packed(std::istreambuf_iterator<char>(packed_stream), {});
  EXPECT_LT(packed.size(), text.size() / 4);
  for (size_t kept : {packed.size() - 1, packed.size() - 9, packed.size() / 2, size_t{40}})
    expect_complaint(packed.substr(0, kept), {"is damaged"});
  std::string flipped = packed;
  flipped[packed.size() / 2] = static_cast<char>(flipped[packed.size() / 2] ^ 0x55);
  EXPECT_THROW(read(flipped), IoError);
}

TEST_F(MeasuredTable, NamesTheFileTheLineAndTheColumn) {
  EXPECT_THROW(read_measured_table("/nonexistent/table.csv"), IoError);
  expect_complaint("", {"holds no rows", "docs/cost-model.md"});
  expect_complaint(kMoeHeader, {"holds no rows"});
  expect_complaint(kMoeHeader + kMoeRow + "VLLM,0.24.0,NVIDIA H100\n",
                   {"line 3 holds 3 cells, not 15"});
  expect_complaint(with("power_law_1.2", "balanced,0.1"), {"line 3 holds 16 cells, not 15"});
  for (const char* cell : {"nan", "inf", "-16", "0", "", "many", "16x", " 16", "0x10"})
    expect_complaint(with("16", cell), {"line 3, column num_tokens", "no positive number"});
  expect_complaint(with("16", "2.5"), {"line 3, column num_tokens", "2.5 is no count"});
  expect_complaint(with("2048", "1e300"), {"line 3, column hidden_size", "no count"});
  expect_complaint(with("8", "129"), {"line 3, column topk", "exceeds num_experts"});
  expect_complaint(with("2", "5"), {"line 3, column moe_tp_size", "doesn't divide inter_size"});
  expect_complaint(with("4", "3"), {"line 3, column moe_ep_size", "doesn't divide num_experts"});
  expect_complaint(with("power_law_1.2", "odd"), {"line 3, column distribution", "\"odd\""});
  expect_complaint(with("moe", "conv"), {"line 3, column op_name", "\"conv\""});
  expect_complaint(with("triton", "trit\xf6n"), {"line 3, column kernel_source", "ASCII"});
  std::string bad_latency = kMoeHeader + kMoeRow;
  bad_latency.replace(bad_latency.find("0.25"), 4, "nan");
  expect_complaint(bad_latency, {"line 2, column latency"});
}

TEST_F(MeasuredTable, NamesAMissingOrRepeatedColumn) {
  for (const char* column : {"device", "op_name", "latency", "moe_dtype", "topk", "distribution"}) {
    std::string header = kMoeHeader;
    header.replace(header.find(column), std::string(column).size(), "other");
    expect_complaint(header + kMoeRow, {column, "is missing"});
  }
  std::string twice = kMoeHeader;
  twice.replace(twice.find("topk"), 4, "latency");
  expect_complaint(twice + kMoeRow, {"\"latency\"", "twice"});
  // As many cells as there are different names.
  expect_complaint("op_name,a,a,latency\nmoe,1,2\n", {"\"a\"", "twice"});
}

}  // namespace
}  // namespace thermoe::cost
