// Parts of the load generator that need no server.
#include "rattan/serve/load.h"

#include <gtest/gtest.h>

#include "rattan/base/error.h"
#include "rattan/serve/load_client.h"

namespace rattan::serve {

TEST(Load, PercentilesAreValuesThatWereSeen) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Percentiles p = percentiles(values);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p90, 90);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(p.max, 100);
  EXPECT_EQ(percentiles({7}).p99, 7);
  EXPECT_EQ(percentiles({}).count, 0u);
}

TEST(Load, Addresses) {
  const ServerAddress plain = ServerAddress::of_url("http://127.0.0.1:8000/");
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, "8000");
  const ServerAddress v6 = ServerAddress::of_url("http://[::1]:81");
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.port, "81");
  EXPECT_EQ(ServerAddress::of_url("http://host").port, "80");
  for (const char* bad : {"", "host", "https://host", "http://", "http://host:", "http://host:x", "http://host/path"})
    EXPECT_THROW(ServerAddress::of_url(bad), InputError) << bad;
}

TEST(Load, AbsentServersAreExplained) {
  LoadConfig config;
  config.url = "http://127.0.0.1:1";
  EXPECT_THROW(run_load(config), Error);
  config.answer_tokens = 0;
  EXPECT_THROW(run_load(config), InputError);
}

}  // namespace rattan::serve
