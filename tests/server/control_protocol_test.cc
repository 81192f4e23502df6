// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "server/control_protocol.h"

#include <string>

#include "gtest/gtest.h"

namespace ext2cow {
namespace {

std::string Nested(int depth) {
  return std::string(depth, '[') + std::string(depth, ']');
}

std::string RequestWith(const std::string& params) {
  return R"({"jsonrpc":"2.0","method":"ls","params":)" + params + "}";
}

TEST(ControlProtocolTest, AnswersWithMembersOfOtherTypesDoNoHarm) {
  for (const char* line :
       {R"({"error":7})", R"({"error":{"code":"x","message":5}})",
        R"({"error":{"code":-2147483648}})", R"({"error":null})"}) {
    const auto answer = ParseAnswer(line);
    ASSERT_TRUE(answer.ok()) << line;
    EXPECT_EQ(answer->result.status().code(), absl::StatusCode::kUnknown)
        << line;
  }
  for (const char* line :
       {R"({"method":"progress","params":5})",
        R"({"method":"progress","params":{"done":"x","total":[]}})"}) {
    const auto answer = ParseAnswer(line);
    ASSERT_TRUE(answer.ok()) << line;
    EXPECT_TRUE(answer->is_progress);
    EXPECT_EQ(answer->done + answer->total, 0u);
  }
}

TEST(ControlProtocolTest, DeepNestingIsRefusedOnBothSides) {
  EXPECT_EQ(ParseRequest(RequestWith(Nested(100'000))).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      ParseAnswer(R"({"result":)" + Nested(100'000) + "}").status().code(),
      absl::StatusCode::kDataLoss);
}

TEST(ControlProtocolTest, ManyBracketsAreNotDeep) {
  std::string list = "[0";
  for (int i = 0; i < 100; ++i) list += ",[]";
  EXPECT_TRUE(ParseRequest(RequestWith(list + "]")).ok());
  EXPECT_TRUE(
      ParseRequest(RequestWith("\"\\\"" + std::string(100, '[') + "\"")).ok());
}

TEST(ControlProtocolTest, AnIdIsAStringOrANumber) {
  EXPECT_EQ(ParseRequest(R"({"jsonrpc":"2.0","method":"ls","id":{}})")
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(ParseRequest(R"({"jsonrpc":"2.0","method":"ls","id":"x"})").ok());
}

}  // namespace
}  // namespace ext2cow
