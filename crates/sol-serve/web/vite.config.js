// The bundle that `sol serve` embeds: one script, one style sheet, one page, no address but its own.
import { defineConfig } from "vite";

export default defineConfig({
  // Works under any path of a proxy.
  base: "./",
  build: {
    target: ["chrome123", "edge123", "firefox121", "safari17.5"],
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    // Those of what went into the bundle.
    license: { fileName: "licenses.md" },
  },
});
