// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cstddef>
#include <cstdint>
#include <string>

#include "server/control_protocol.h"
#include "server/engine.h"
#include "server/params.h"
#include "tests/fuzz/require.h"

// Input: one line, taken as a request and as an answer.
namespace ext2cow {
namespace {

using fuzz::Require;
using nlohmann::json;

void CheckParams(const json& params) {
  (void)Flag(params, "force");
  const std::string text = Text(params, "session");
  const auto name = Name(params, "session");
  Require(name.ok() == IsValidName(text), "a name is taken when it is one");
  const auto source = ParseSource(text);
  if (!source.ok()) return;
  Require(text == (source->snapshot.empty()
                       ? source->session
                       : source->session + "@" + source->snapshot),
          "a source is its parts");
}

void FuzzRequest(const std::string& line) {
  const auto request = ParseRequest(line);
  if (!request.ok()) {
    // What the server sends back to the client must be an answer.
    const auto answer = ParseAnswer(FormatBadRequest(request.status()));
    Require(answer.ok() && !answer->result.ok(), "an error arrives as one");
    return;
  }
  CheckParams(request->params);
  const auto again =
      ParseRequest(FormatRequest(7, request->method, request->params));
  Require(again.ok(), "what FormatRequest makes is a request");
  Require(again->id == 7 && again->method == request->method &&
              again->params == request->params,
          "a request comes back the same");

  const auto result = ParseAnswer(FormatResult(request->id, request->params));
  Require(result.ok() && !result->is_progress && result->result.ok() &&
              *result->result == request->params,
          "a result comes back the same");
  const auto progress = ParseAnswer(FormatProgress(request->id, 3, 9));
  Require(progress.ok() && progress->is_progress && progress->done == 3 &&
              progress->total == 9,
          "progress comes back the same");
}

void FuzzAnswer(const std::string& line) {
  const auto answer = ParseAnswer(line);
  if (!answer.ok() || answer->is_progress || !answer->result.ok()) return;
  const auto again = ParseAnswer(FormatResult(1, *answer->result));
  Require(again.ok() && again->result.ok() && *again->result == *answer->result,
          "an answer comes back the same");
}

}  // namespace
}  // namespace ext2cow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string line(reinterpret_cast<const char*>(data), size);
  ext2cow::FuzzRequest(line);
  ext2cow::FuzzAnswer(line);
  return 0;
}
