"""One folder per broker behind the protocol in base; nothing outside knows a broker's wire."""
