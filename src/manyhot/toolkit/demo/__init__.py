"""The demo: small jobs that are trained as any table is, beside what people do today."""
