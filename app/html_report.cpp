#include <fmt/format.h>

#include "run_outcome.h"

namespace thermoe::app {
namespace {

constexpr const char* kStyle = R"css(
body{font:15px/1.5 system-ui,sans-serif;color:#24292f;max-width:960px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:.2em}h2{font-size:1.2em;margin-top:1.8em}
pre{background:#f6f8fa;padding:1em;overflow-x:auto;font-size:12.5px;line-height:1.4}
svg{max-width:100%;height:auto}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:1em}
.pair div{background:#f6f8fa;padding:.8em;border-radius:6px}
.note{color:#57606a}@media(max-width:700px){.pair{grid-template-columns:1fr}}
)css";

std::string texts_html(const RunOutcome& outcome) {
  std::string html;
  for (const TextSample& sample : outcome.texts)
    html += fmt::format(
        "<h3>{}: <q>{}</q></h3><div class=\"pair\"><div><b>top-k</b><br>{}</div>"
        "<div><b>thermoe</b><br>{}</div></div>\n",
        escape_markup(sample.phase), escape_markup(sample.prompt), escape_markup(sample.top_k),
        escape_markup(sample.thermoe));
  return html;
}

}  // namespace

std::string to_html(const RunOutcome& outcome) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width\"><title>thermoe run</title>"
      "<style>{}</style></head><body>\n"
      "<h1>thermoe run: {}</h1>\n<p class=\"note\">{}</p>\n"
      "<p>{} sequences decode together; a step is due every {:.1f} ms, which an MoE layer meets at "
      "{:.0f} µs. The device slows down at {:.0f} °C.</p>\n"
      "{}<h2>By phase</h2>\n<pre>{}</pre>\n<p>{}</p>\n"
      "<p class=\"note\">experts: distinct experts read a layer; price: mean opening price, in the "
      "gate mass of a token; loss: cross-entropy minus top-k's on the same tokens, with its "
      "standard "
      "error over windows; ppl: relative change of perplexity.</p>\n"
      "<h2>What was generated</h2>\n{}</body></html>\n",
      kStyle, escape_markup(outcome.scenario), escape_markup(provenance(outcome)), outcome.batch,
      outcome.period_s * 1e3, outcome.latency_target_us, outcome.slowdown_c, to_plot(outcome).svg(),
      escape_markup(to_table(outcome)), escape_markup(identity_line(outcome)), texts_html(outcome));
}

}  // namespace thermoe::app
