// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
//
// An image that somebody else changed, and the way out.
#include <string>

#include "absl/time/clock.h"
#include "tests/crash/engine_fixture.h"
#include "tests/support/process.h"

namespace ext2cow::test {
namespace {

class AdoptTest : public EngineTest {
 protected:
  static std::string Relabelled(const std::string& image) {
    TempDir scratch;
    WriteFileBytes(scratch / "image", image);
    RunOk({"tune2fs", "-L", "changed", scratch / "image"});
    return ReadFileBytes(scratch / "image");
  }
  void ChangeImage() {
    const std::string changed = Relabelled(world_->image());
    const auto image = world_->disk().Open(kImageName, /*create=*/false);
    ASSERT_TRUE(image.ok()) << image.status();
    ASSERT_TRUE(world_->disk().Write(*image, 0, changed).ok());
  }
  static absl::Status ReadStatus(Connection* connection) {
    char byte;
    return connection->Read(0, &byte, 1);
  }
};

// Who is connected to a point would read on from what was adopted.
TEST_F(AdoptTest, IsRefusedWhileAPointIsConnected) {
  Open();
  CommitByAnother(3, 'n');
  auto point = ConnectPoint("0");
  ChangeImage();
  EXPECT_TRUE(absl::IsFailedPrecondition(
      Execute("adopt", Json::object()).status()));
  point.reset();
  const auto adopted = Execute("adopt", Json::object());
  EXPECT_TRUE(adopted.ok()) << adopted.status();
}

}  // namespace
}  // namespace ext2cow::test
